/* Functions of the GPU engine's kernels: loads, sums rounded to odd, codes, and cuts by magic numbers. */

#define LANES _Pragma("unroll") for (int j = 0; j < W; ++j)
#define SA(g, j) sa[(long)(g) * lda + ROW(j)]
#define ESA(g, j) esa[(long)(g) * lda + ROW(j)]
#define SB(g, j) sb[(long)(g) * ldb + COLUMN(j)]
#define ESB(g, j) esb[(long)(g) * ldb + COLUMN(j)]
#define ROW_OF(j) (row + ROW(j))
#define COLUMN_OF(j) (column + COLUMN(j))
#define AT(j) ((long)ROW(j) * ldb + COLUMN(j)) /* offset in C and D from the thread's first element */

/* Load N neighbours, 16 bytes at a time; the address is a multiple of their size. */
template <int N, typename T> FN void load(T (&x)[N], const T *p) {
  constexpr int V = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
  struct alignas(V * sizeof(T)) Vector { T v[V]; };
#pragma unroll
  for (int i = 0; i < N / V; ++i) {
    const Vector v = reinterpret_cast<const Vector *>(p)[i];
#pragma unroll
    for (int l = 0; l < V; ++l) x[i * V + l] = v.v[l];
  }
}

/* x + y rounded to odd: of the two doubles around it, the odd one. */
FN double sum_to_odd(double x, double y) {
  const double down = __dadd_rd(x, y), up = __dadd_ru(x, y);
  return __double2loint(down) & 1 ? down : up;
}
/* x + y + z rounded to odd, where x + y is not exact (Shewchuk 1997; see float64.to_odd). */
static __device__ __noinline__ double slow_sum_to_odd(double x, double y, double z) {
  const double xy = x + y, e = sum_error(x, y, xy), ez = e + z, low = sum_error(e, z, ez);
  const double head = xy + ez, next = sum_error(xy, ez, head);
  const double top = head + next, a = sum_error(head, next, top), high = top + low, b = sum_error(top, low, high);
  const double ab = a + b, left = jam(ab, sum_error(a, b, ab)), total = high + left;
  const double odd = total != 0 ? jam(total, sum_error(high, left, total)) : (x == 0) & (y == 0) & (z == 0) ? xy + z : 0.0;
  return is_finite(xy + z) ? odd : xy + z;
}
FN double sum_to_odd(double x, double y, double z) {
  const double down = __dadd_rd(x, y), up = __dadd_ru(x, y);
  return __double2loint(down) == __double2loint(up) ? sum_to_odd(up, z) : slow_sum_to_odd(x, y, z);
}

/* The nearest FP16 number. */
FN double to_fp16(double x) { return convert(x, NEAREST_EVEN, 15, 10); }
/* A mask of bits n and above; 0 from n = 32 on. */
FN int shifted_ones(int n) {
  int mask;
  asm("shl.b32 %0, -1, %1;" : "=r"(mask) : "r"(n));
  return mask;
}

/* x * y rounded to a multiple of a unit; magic is 2**52 units (1.5 * 2**52 for signed x * y), far above |x * y|. */
FN double cut_toward_zero(double x, double y, double magic) {
  const double t = __fma_rz(fabs(x), fabs(y), magic) - magic;
  return from_bits(to_bits(t) | ((to_bits(x) ^ to_bits(y)) & (1ll << 63)));
}
FN float magic_of(float inverse) { return pow2f(smaller(23 - ((__float_as_int(inverse) >> 23) - 127), 127)); }
FN double cut_nearest(double x, double y, double magic) { return copysign(__fma_rn(x, y, magic) - magic, x * y); }
FN double cut_up(double x, double y, double magic) { return copysign(__fma_ru(x, y, magic) - magic, x * y); }
FN double cut_down(double x, double y, double magic) { return copysign(__fma_rd(x, y, magic) - magic, x * y); }
