// A project whose network is ours: nothing but the URL says so. Folders are given, so that nothing is written here.
require("@nomicfoundation/hardhat-ethers");

const { MANAHSM_URL, MANAHSM_DIRECTORY } = process.env;

module.exports = {
  solidity: "0.8.26",
  defaultNetwork: "ours",
  networks: { ours: { url: MANAHSM_URL, accounts: "remote" } },
  paths: { cache: `${MANAHSM_DIRECTORY}/cache`, artifacts: `${MANAHSM_DIRECTORY}/artifacts` },
};
