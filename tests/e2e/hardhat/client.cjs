// Hardhat, unmodified: hardhat run --no-compile client.cjs. Prints what came back, and whom ethers recovers from it.
const hre = require("hardhat");
const { ethers } = hre;

// What no compiler was needed for. Called with an argument it stores that, without one it returns what it has stored.
const INIT = "0x601a600c600039601a6000f3";
const RUNTIME = "366004106012576000546000526020 6000f35b600435600055 00".replaceAll(" ", "");
const ABI = ["function stored() view returns (uint256)", "function store(uint256 what)"];
const DOMAIN = { name: "End to end", chainId: 31337 };
const TYPES = { Mail: [{ name: "to", type: "address" }, { name: "amount", type: "uint256" }] };
const MAIL = { to: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", amount: 10n ** 21n };

async function main() {
  const signers = await ethers.getSigners();
  const [signer] = signers;

  const sent = await signer.sendTransaction({ to: MAIL.to, value: 1n });
  const receipt = await sent.wait();
  const contract = await new ethers.ContractFactory(ABI, INIT + RUNTIME, signer).deploy();
  await contract.waitForDeployment();
  const stored = await (await contract.store(42n)).wait();

  return {
    signers: signers.map((each) => each.address),
    sendTransaction: [receipt.from, receipt.status],
    signMessage: ethers.verifyMessage("hello", await signer.signMessage("hello")),
    signTypedData: ethers.verifyTypedData(DOMAIN, TYPES, MAIL, await signer.signTypedData(DOMAIN, TYPES, MAIL)),
    deployed: (await ethers.provider.getCode(await contract.getAddress())).slice(2) === RUNTIME,
    stored: [stored.from, stored.status, Number(await contract.stored())],
    balance: await ethers.provider.getBalance(signer.address).then((wei) => wei > 0n),
  };
}

main().then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
