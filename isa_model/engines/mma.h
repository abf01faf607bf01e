/* The Tensor Core instructions of a Hopper GPU that tensor.py uses: one warp, tiles of 16 x 8. */

/* R registers of a thread, in vectors of V that lie 32 threads apart. */
template <int R, int V> FN void packed(unsigned (&x)[R], const unsigned *p) {
  struct alignas(4 * V) Vector { unsigned v[V]; };
#pragma unroll
  for (int i = 0; i < R / V; ++i) {
    const Vector v = *reinterpret_cast<const Vector *>(p + i * 32 * V);
#pragma unroll
    for (int l = 0; l < V; ++l) x[i * V + l] = v.v[l];
  }
}

/* D = A B + C of BF16, 16 and 8 of K. */
FN void hmma(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1,
             const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
FN void hmma(float (&d)[4], unsigned a0, unsigned a1, unsigned b0, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

/* Sums of 2**(STEP (ea + eb)) of a block; where STEP is 4, the largest sum of eight. */
template <int CHUNKS, int STEP> FN void powers(float (&top)[4], const unsigned (&a)[2 * CHUNKS], const unsigned (&b)[CHUNKS]) {
  const float zero[4] = {0, 0, 0, 0};
  static_assert(STEP == 4 || CHUNKS < 1 << (STEP - 3), "a sum of powers of two must not reach the next exponent");
#pragma unroll
  for (int i = 0; i < 4; ++i) top[i] = 0;
  if (STEP == 4) {
#pragma unroll
    for (int t = 0; t < CHUNKS; ++t) {
      float eight[4];
      hmma(eight, a[2 * t], a[2 * t + 1], b[t], zero);
#pragma unroll
      for (int i = 0; i < 4; ++i) top[i] = fmaxf(top[i], eight[i]);
    }
  } else {
#pragma unroll
    for (int t = 0; t + 1 < CHUNKS; t += 2)
      hmma(top, a[2 * t], a[2 * t + 1], a[2 * t + 2], a[2 * t + 3], b[t], b[t + 1], top);
    if (CHUNKS % 2) hmma(top, a[2 * CHUNKS - 2], a[2 * CHUNKS - 1], b[CHUNKS - 1], top);
  }
}

/* B of the eight slots that hold powers of two: -1 on the diagonal. */
FN unsigned minus_unit_matrix(int thread) {
  const int column = thread / 4, k = thread % 4 * 2;
  return (column == k ? 0xBF80u : 0) | (column == k + 1 ? 0xBF800000u : 0);
}

/* Sums of products cut 25 bits below the leading bit of `magic`, a power of two for each element. */
template <int CHUNKS>
FN void truncated(float (&sum)[4], const float (&magic)[4], const unsigned (&a)[2 * CHUNKS], const unsigned (&b)[CHUNKS],
                  unsigned minus_one) {
  const unsigned low = __byte_perm(__float_as_uint(magic[0]), __float_as_uint(magic[1]), 0x7632);
  const unsigned high = __byte_perm(__float_as_uint(magic[2]), __float_as_uint(magic[3]), 0x7632);
#pragma unroll
  for (int t = 0; t < CHUNKS; ++t) {
    float eight[4];
    hmma(eight, low, high, a[2 * t], a[2 * t + 1], minus_one, b[t], magic);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = t ? sum[i] + eight[i] : eight[i];
  }
}

/* FP64: operands are upper halves of doubles whose lower halves are zero. */
enum { SIGNED, MAGNITUDE, POSITIVE, NEGATIVE };
template <int PART> FN double part_of(unsigned x) {
  const int y = (int)x;
  const int word = PART == SIGNED      ? y
                   : PART == MAGNITUDE ? y & 0x7FFFFFFF
                   : PART == POSITIVE  ? larger(y, 0)
                                       : larger(y ^ (int)0x80000000, 0);
  return __hiloint2double(word, 0);
}
#define DMMA(k, round, a, b) "mma.sync.aligned.m16n8k" k ".row.col.f64.f64.f64.f64." round " {%0,%1,%2,%3}, {" a "}, {" b "}, {%0,%1,%2,%3};"
#define SUMS "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
template <bool CUT> FN void dmma(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
  if (CUT)
    asm(DMMA("16", "rz", "%4,%5,%6,%7,%8,%9,%10,%11", "%12,%13,%14,%15") : SUMS
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
  else
    asm(DMMA("16", "rn", "%4,%5,%6,%7,%8,%9,%10,%11", "%12,%13,%14,%15") : SUMS
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
}
template <bool CUT> FN void dmma(double (&c)[4], const double (&a)[2], const double (&b)[1]) {
  if (CUT)
    asm(DMMA("4", "rz", "%4,%5", "%6") : SUMS : "d"(a[0]), "d"(a[1]), "d"(b[0]));
  else
    asm(DMMA("4", "rn", "%4,%5", "%6") : SUMS : "d"(a[0]), "d"(a[1]), "d"(b[0]));
}

/* A chain of fused multiply-adds over the chosen parts of A and B; in a cut sum they round toward zero. */
template <int CHUNKS, int PART, bool CUT = false>
FN void chain(double (&c)[4], const unsigned (&a)[2 * CHUNKS], const unsigned (&b)[CHUNKS]) {
#pragma unroll
  for (int t = 0; t < CHUNKS / 4; ++t) {
    double x[8], y[4];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = part_of<PART>(a[8 * t + i]);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = part_of<PART>(b[4 * t + i]);
    dmma<CUT>(c, x, y);
  }
#pragma unroll
  for (int t = CHUNKS / 4 * 4; t < CHUNKS; ++t) {
    const double x[2] = {part_of<PART>(a[2 * t]), part_of<PART>(a[2 * t + 1])}, y[1] = {part_of<PART>(b[t])};
    dmma<CUT>(c, x, y);
  }
}

/* Sums of products, each cut to a multiple of 2**-52 `magic`, a power of two for each element. */
template <int CHUNKS>
FN void truncated(double (&sum)[4], const double (&magic)[4], const unsigned (&a)[2 * CHUNKS], const unsigned (&b)[CHUNKS]) {
  double all[4], positive[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) all[i] = positive[i] = magic[i];
  chain<CHUNKS, MAGNITUDE, true>(all, a, b);
  chain<CHUNKS, POSITIVE, true>(positive, a, b);
  chain<CHUNKS, NEGATIVE, true>(positive, a, b);
  int special = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    special |= !is_finite(all[i]);
    sum[i] = fma(2.0, positive[i] - magic[i], magic[i] - all[i]);
  }
  if (__any_sync(0xFFFFFFFFu, special)) { /* with an infinity or NaN, the plain sum is right */
    double plain[4] = {0, 0, 0, 0};
    chain<CHUNKS, SIGNED>(plain, a, b);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = is_finite(all[i]) ? sum[i] : plain[i];
  }
}

/* INT8 digits: sums of products of digits of A and B, one for each power of 256; those whose bit is set in START begin
 * at 2**31. */
FN void imma(int (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1, const int *c) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
FN void imma(int (&d)[4], unsigned a0, unsigned a1, unsigned b0, const int *c) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b0), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
template <int OF_A, int OF_B, int CHUNKS, unsigned START>
FN void products(int (&digits)[OF_A + OF_B - 1][4], const unsigned (&a)[OF_A * CHUNKS * 2], const unsigned (&b)[OF_B * CHUNKS]) {
  const int zero[4] = {0, 0, 0, 0}, bias[4] = {(int)0x80000000, (int)0x80000000, (int)0x80000000, (int)0x80000000};
#pragma unroll
  for (int w = 0; w < OF_A + OF_B - 1; ++w)
#pragma unroll
    for (int p = 0; p < OF_A; ++p) {
      const int q = w - p;
      if (q < 0 || q >= OF_B) continue;
      const bool begins = p == 0 || q == OF_B - 1;
#pragma unroll
      for (int t = 0; t < CHUNKS; t += 2) {
        const unsigned *x = a + (p * CHUNKS + t) * 2, *y = b + q * CHUNKS + t;
        const int *c = !begins || t ? digits[w] : START >> w & 1 ? bias : zero;
        if (t + 1 < CHUNKS) imma(digits[w], x[0], x[1], x[2], x[3], y[0], y[1], c);
        else imma(digits[w], x[0], x[1], y[0], c);
      }
    }
}
