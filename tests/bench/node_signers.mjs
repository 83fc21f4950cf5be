// viem or ethers as a contestant: node node_signers.mjs viem|ethers NODE_MODULES
// The first line of standard input is {"privateKey", "transactions"}; it says "ready", and to "run SECONDS"
// how many transactions were signed in one.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const [library, modules] = process.argv.slice(2);
const load = createRequire(modules + "/");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { privateKey, transactions } = JSON.parse((await lines.next()).value);

const makers = {
  viem() {
    const account = load("viem/accounts").privateKeyToAccount(privateKey);
    const given = transactions.map((tx) => ({
      type: "eip1559",
      chainId: tx.chainId,
      nonce: tx.nonce,
      maxPriorityFeePerGas: BigInt(tx.maxPriorityFeePerGas),
      maxFeePerGas: BigInt(tx.maxFeePerGas),
      gas: BigInt(tx.gas),
      to: tx.to,
      value: BigInt(tx.value),
    }));
    return (number) => account.signTransaction(given[number % given.length]);
  },
  ethers() {
    const wallet = new (load("ethers").Wallet)(privateKey);
    const given = transactions.map((tx) => ({
      type: 2,
      chainId: tx.chainId,
      nonce: tx.nonce,
      maxPriorityFeePerGas: BigInt(tx.maxPriorityFeePerGas),
      maxFeePerGas: BigInt(tx.maxFeePerGas),
      gasLimit: BigInt(tx.gas),
      to: tx.to,
      value: BigInt(tx.value),
    }));
    return (number) => wallet.signTransaction(given[number % given.length]);
  },
};
const sign = makers[library]();
console.log("ready");

for await (const line of lines) {
  const [command, argument] = line.split(" ");
  if (command === "first") {
    console.log(await sign(0));
    continue;
  }
  const began = process.hrtime.bigint();
  const end = began + BigInt(Math.round(Number(argument) * 1e9));
  let count = 0;
  let now;
  do {
    await sign(count++);
    now = process.hrtime.bigint();
  } while (now < end);
  console.log((count * 1e9) / Number(now - began));
}
