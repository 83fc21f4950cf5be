// ethers, unmodified, with an account that the node is said to hold: node ethers_client.mjs URL ADDRESS RECIPIENT
// Prints what came back, and whom ethers itself recovers from it. ethers sends what it can in batches.
import { JsonRpcProvider, Transaction, getBytes, parseUnits, verifyMessage, verifyTypedData } from "ethers";
import { typed } from "./typed_data.mjs";

const [url, address, to] = process.argv.slice(2);
const provider = new JsonRpcProvider(url, undefined, { polling: true, pollingInterval: 50 });
const { chainId } = await provider.getNetwork();
const signer = await provider.getSigner(address);

const message = "hello from ethers";
const bytes = getBytes("0x00ff10");
const { domain, types, message: mail } = typed(Number(chainId));
const { EIP712Domain, ...ours } = types;
const signed = await signer.signTransaction({
  from: address,
  to,
  value: 7n,
  nonce: 1000,
  gasLimit: 21000n,
  maxFeePerGas: parseUnits("30", "gwei"),
  maxPriorityFeePerGas: parseUnits("1", "gwei"),
  chainId,
  type: 2,
});

const result = {
  accounts: (await provider.listAccounts()).map((account) => account.address),
  personal_sign: verifyMessage(message, await signer.signMessage(message)),
  personal_sign_bytes: verifyMessage(bytes, await signer.signMessage(bytes)),
  eth_signTypedData_v4: verifyTypedData(domain, ours, mail, await signer.signTypedData(domain, ours, mail)),
  eth_signTransaction: Transaction.from(signed).from,
  sent: [
    (await signer.sendTransaction({ to, value: 1n })).hash,
    ...(await Promise.all([2n, 3n, 4n].map((value) => signer.sendUncheckedTransaction({ to, value })))),
  ],
};
provider.destroy();
console.log(JSON.stringify(result));
