// EIP-712 data that both clients have signed.
export function typed(chainId) {
  return {
    types: {
      EIP712Domain: [
        { name: "name", type: "string" },
        { name: "chainId", type: "uint256" },
      ],
      Person: [
        { name: "name", type: "string" },
        { name: "wallet", type: "address" },
      ],
      Mail: [
        { name: "to", type: "Person[]" },
        { name: "amount", type: "uint256" },
        { name: "contents", type: "string" },
      ],
    },
    primaryType: "Mail",
    domain: { name: "End to end", chainId },
    message: {
      to: [{ name: "Bob", wallet: "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB" }],
      amount: 1000000000000000000000n,
      contents: "Hello, Bob!",
    },
  };
}
