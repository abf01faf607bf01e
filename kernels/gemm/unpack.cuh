// Weights of E2M1, packed two a byte, become E4M3 in shared memory, where wgmma reads them. A group of 32 along K has the factor
// 2^(shift - 8), its scale over that of its 128x128 block; E4M3 holds the products exactly (docs/asks.md, "FP4 as FP8, exactly").
// A table has the 8 magnitudes times each factor, and a byte permutation looks four of them up at once.

// Stores the table: 8 bytes per shift, 0 to 14. Thread `t` of 32 stores 4 of them.
__device__ __forceinline__ void store_table(u32 table, int t) {
  u32 four = 0;
  for (int i = 0; i < 4; ++i) {
    const int code = t % 2 * 4 + i, exponent = code >> 1, units = (exponent ? 2 + code % 2 << exponent - 1 : code % 2) << t / 2;  // of 2^-9
    int top = 3;
    while (units >> top > 1) ++top;
    four |= (units < 8 ? units : top - 2 << 3 | (units >> top - 3 & 7)) << 8 * i;
  }
  store_word(table + t * 4, four);
}

// Four codes of E2M1, in the lower 16 bits, as four of E4M3.
__device__ __forceinline__ u32 four_e4m3(u32 codes, uint2 table) {
  const u32 spread = __byte_perm(codes, 0, 0x1100);  // each byte twice: the sign of its lower code is at bit 3, of its upper at bit 7
  return __byte_perm(table.x, table.y, codes & 0x7777) | (spread & 0x80008000) | (spread & 0x00080008) << 4;
}

// Unpacks a stage of B. Each thread has a group of 32, 16 bytes, at a time; `i` is the first.
__device__ __forceinline__ void unpack(u32 from, u32 shifts, u32 table, u32 to, int i) {
#pragma unroll(WGS == 1 ? 2 : 1)
  for (; i < BN * 4; i += UNPACKERS * 32) {
    const uint4 codes = load_words4(from + i * 16);
    const uint2 t = load_words2(table + load_byte(shifts + i) * 8);
    const u32 place = to + (i * 32 ^ (i / 4 % 8 << 4));  // the 128-byte swizzle
    store_words4(place, four_e4m3(codes.x, t), four_e4m3(codes.x >> 16, t), four_e4m3(codes.y, t), four_e4m3(codes.y >> 16, t));
    store_words4(place ^ 16, four_e4m3(codes.z, t), four_e4m3(codes.z >> 16, t), four_e4m3(codes.w, t), four_e4m3(codes.w >> 16, t));
  }
}
