// wgmma for hopper_on_cpu.cpp, which includes this file. Every thread computes its fragment of the accumulator at once but gets it
// at the wait; until then the accumulator is NaN and the operands must not change.

namespace {

// Hopper's e8m13 accumulator: 32 products and C are aligned to the largest exponent and truncated to 13 fraction bits.
struct Decoded { int significand[32], exponent[32]; bool nan; };  // INT8: the numbers are the significands

void decode(const unsigned char *codes, bool whole, Decoded &to) {
  to.nan = false;
  if (whole) return (void)std::copy_n((const signed char *)codes, 32, to.significand);
  for (int i = 0; i < 32; ++i) {
    const int c = codes[i], e = c >> 3 & 15, f = c & 7, s = e ? 8 + f : f;
    to.significand[i] = c & 0x80 ? -s : s;
    to.exponent[i] = s ? (e ? e : 1) - 7 : -200;
    to.nan |= (c & 0x7f) == 0x7f;
  }
}

float dot(const Decoded &a, const Decoded &b, float c) {
  if (a.nan || b.nan || c != c) return NAN;
  int exponent[32], largest = -133, ec = -133;
  for (int i = 0; i < 32; ++i) exponent[i] = a.exponent[i] + b.exponent[i];
  for (int i = 0; i < 32; ++i) largest = std::max(largest, exponent[i]);
  if (c != 0) ec = std::ilogb(c), largest = std::max(largest, ec);
  int sum = 0;
  for (int i = 0; i < 32; ++i) {
    const int p = a.significand[i] * b.significand[i], m = std::abs(p) << 7 >> std::min(largest - exponent[i], 31);
    sum += p < 0 ? -m : m;
  }
  if (c != 0) {
    const int m = int(std::ldexp(std::fabs(c), 23 - ec)) >> std::min(10 + largest - ec, 31);
    sum += c < 0 ? -m : m;
  }
  int magnitude = std::abs(sum);
  const int bits = magnitude ? 32 - __builtin_clz(magnitude) : 0;
  if (bits > 14) magnitude = magnitude >> (bits - 14) << (bits - 14);
  return std::ldexp(sum < 0 ? -float(magnitude) : float(magnitude), largest - 13);
}

// 32 products of INT8 and C, in int32 that wraps around.
u32 whole_dot(const Decoded &a, const Decoded &b, u32 c) {
  for (int i = 0; i < 32; ++i) c += u32(a.significand[i] * b.significand[i]);
  return c;
}

// 32 bytes of row `row` of an operand.
void operand(u32 start, u32 stride, int row, unsigned char *to) {
  for (u32 j = 0; j < 32; j += 16) {
    const u32 address = swizzled(start + row / 8 * stride + row % 8 * 128 + j, 128);
    std::memcpy(to + j, memory(self->cta, address, 16, 16), 16);
    for (u32 at : {address, address + 8})
      if (const int writer = ctas[self->cta].unfenced[(at - BASE) / 8])
        fail("a wgmma reads what thread " + std::to_string(writer - 1) + " wrote without a fence");
  }
}

u64 mixed(u64 sum, const unsigned char *codes) {
  for (int i = 0; i < 32; i += 8) {
    u64 word;
    std::memcpy(&word, codes + i, 8);
    sum = (sum ^ word) * 0x9E3779B97F4A7C15ull, sum ^= sum >> 29;
  }
  return sum;
}

int row_of_lane(int half) { return self->index / 32 % 4 * 16 + self->index % 32 / 4 + half * 8; }
int column_of_lane(int i) { return i / 2 * 8 + self->index % 4 * 2 + i % 2; }

// Reads the operands of this thread's fragment, passes each column's codes to `use`, and returns a hash of all codes.
template <class F> u64 read_operands(const Multiplied &w, Decoded (&rows)[2], F use) {
  unsigned char codes[32];
  u64 sum = 0;
  for (int half = 0; half < 2; ++half) operand(w.a, w.stride, row_of_lane(half), codes), sum = mixed(sum, codes), decode(codes, w.whole, rows[half]);
  for (int i = 0; i < w.columns / 4; ++i) operand(w.b, w.stride, column_of_lane(i), codes), sum = mixed(sum, codes), use(i, codes);
  return sum;
}

void retire(std::size_t left) {
  while (self->groups.size() > left) {
    Group group = std::move(self->groups.front());
    self->groups.erase(self->groups.begin());
    for (const Multiplied &w : group.work) {
      Decoded rows[2];
      if (read_operands(w, rows, [](int, const unsigned char *) {}) != w.sum)
        fail("the operands of a wgmma changed while it ran (A at " + hex(w.a) + ", B at " + hex(w.b) + ")");
    }
    for (void *d : group.targets) {
      bool later = false;
      for (const Group &g : self->groups) later |= std::count(g.targets.begin(), g.targets.end(), d) > 0;
      if (later || !self->results.count(d)) continue;
      const std::vector<u32> &result = self->results[d];
      for (std::size_t i = 0; i < result.size(); ++i) {
        u32 now;
        std::memcpy(&now, (u32 *)d + i, 4);
        if (now != TOUCHED) fail("an accumulator was written while its wgmmas ran");
        std::memcpy((u32 *)d + i, &result[i], 4);
      }
      self->results.erase(d);
    }
  }
}

}  // namespace

void wgmma_fence() { meet("wgmma.fence"), self->fenced = true; }

void wgmma_commit() {
  meet("wgmma.commit_group");
  self->groups.push_back(std::move(self->open));
  self->open = {};
  self->fenced = false;
}

void wgmma_wait_all_but(int left) {
  meet("wgmma.wait_group");
  pass();
  retire(left);
}

void multiply(void *d, int count, u32 a, u32 b, u32 high, int add, bool whole) {
  if (!self->fenced) fail("wgmma without a fence since the last group");
  if (a >> 16 != 1 || b >> 16 != 1 || high >> 30 != 1) fail("a wrong descriptor");
  Multiplied w{(a & 0x3FFF) << 4, (b & 0x3FFF) << 4, (high & 0x3FFF) << 4, count * 2, whole, 0};
  auto &result = self->results[d];
  if (result.empty()) {
    result.resize(count);
    std::memcpy(result.data(), d, 4 * count);
    for (int i = 0; i < count; ++i) std::memcpy((u32 *)d + i, &TOUCHED, 4);
  }
  Decoded rows[2];
  w.sum = read_operands(w, rows, [&](int i, const unsigned char *codes) {
    Decoded column;
    decode(codes, whole, column);
    for (int half = 0; half < 2; ++half) {
      u32 &code = result[i / 2 * 4 + half * 2 + i % 2];
      if (!add) code = 0;
      if (whole) {
        code = whole_dot(rows[half], column, code);
      } else {
        float x;
        std::memcpy(&x, &code, 4);
        x = dot(rows[half], column, x);
        std::memcpy(&code, &x, 4);
      }
    }
  });
  self->open.work.push_back(w);
  self->open.targets.push_back(d);
}
