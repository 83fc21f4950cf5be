// viem, unmodified, with an account that the node is said to hold: node viem_client.mjs URL ADDRESS RECIPIENT
// Prints what came back, and whom viem itself recovers from it.
import {
  createWalletClient,
  createPublicClient,
  defineChain,
  http,
  parseGwei,
  recoverMessageAddress,
  recoverTransactionAddress,
  recoverTypedDataAddress,
} from "viem";
import { typed } from "./typed_data.mjs";

const [url, address, to] = process.argv.slice(2);
const transport = http(url, { retryCount: 0 });
const reader = createPublicClient({ transport });
const id = await reader.getChainId();
const chain = defineChain({
  id,
  name: "end to end",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [url] } },
});
const wallet = createWalletClient({ account: address, chain, transport });

const message = "hello from viem";
const bytes = { raw: "0x00ff10" };
const typedData = typed(id);
const transaction = {
  to,
  value: 7n,
  nonce: 1000,
  gas: 21000n,
  maxFeePerGas: parseGwei("30"),
  maxPriorityFeePerGas: parseGwei("1"),
};
const signed = await wallet.signTransaction(transaction);

const result = {
  accounts: await wallet.getAddresses(),
  personal_sign: await recoverMessageAddress({ message, signature: await wallet.signMessage({ message }) }),
  personal_sign_bytes: await recoverMessageAddress({
    message: bytes,
    signature: await wallet.signMessage({ message: bytes }),
  }),
  eth_signTypedData_v4: await recoverTypedDataAddress({
    ...typedData,
    signature: await wallet.signTypedData(typedData),
  }),
  eth_signTransaction: await recoverTransactionAddress({ serializedTransaction: signed }),
  sent: [
    await wallet.sendTransaction({ to, value: 1n }),
    ...(await Promise.all([2n, 3n, 4n].map((value) => wallet.sendTransaction({ to, value })))),
  ],
};
console.log(JSON.stringify(result));
