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

// Eight codes of E2M1 as eight of E4M3 (fp4.py says where their bits are).
__device__ __forceinline__ uint2 eight_e4m3(u32 codes, uint2 table) {
  const u32 magnitudes = codes & 0x77777777;
  return {__byte_perm(table.x, table.y, magnitudes) | (codes & 0x80808080), __byte_perm(table.x, table.y, magnitudes >> 16) | (codes << 4 & 0x80808080)};
}

// Unpacks a step of B by TEAM warps. A lane takes groups of 32, 16 bytes each, two at once to hide the latency of loads.
__device__ __forceinline__ void unpack(u32 from, u32 shifts, u32 table, u32 to, u32 member, u32 lane) {
  const u32 place = to + (lane * 32 ^ lane / 4 << 4);  // the 128-byte swizzle
#pragma unroll 1
  for (u32 i = member * 64; i < BN * 4; i += TEAM * 64) {
    uint4 c[2];
    uint2 t[2];
#pragma unroll
    for (u32 j = 0; j < 2; ++j) c[j] = load_words4(from + (i + j * 32 + lane) * 16), t[j].x = load_byte(shifts + i + j * 32 + lane);
#pragma unroll
    for (u32 j = 0; j < 2; ++j) t[j] = load_words2(table + t[j].x * 8);
#pragma unroll
    for (u32 j = 0; j < 2; ++j) {
      const u32 at = place + (i + j * 32) * 32;
      const uint2 x = eight_e4m3(c[j].x, t[j]), y = eight_e4m3(c[j].y, t[j]), z = eight_e4m3(c[j].z, t[j]), w = eight_e4m3(c[j].w, t[j]);
      store_words4(at, x.x, x.y, y.x, y.y);
      store_words4(at ^ 16, z.x, z.y, w.x, w.y);
    }
  }
}
