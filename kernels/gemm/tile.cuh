// The tile: its parameters, its layout in shared memory, and the walk over all tiles of D. tile.py defines the parameters as
// constants in front of this text:
//   BM, BN      rows and columns of a CTA's tile of D: 64 rows with one math warpgroup, 128 or 256 with two
//   STAGES      stages of the ring
//   SHARE       1: SHARERS CTAs side by side along N share A; 2: along M they share B; each multicasts its part to all
//   SPLIT       2: two CTAs of a cluster share a tile, each with half of K; each adds up and stores half of the columns
//   PROMOTE     wgmmas (32 of K each) between promotions; 0: none, the Tensor Core's accumulator holds the whole sum. With
//               group scales, 0 is a timing twin: scales are loaded but not applied, and D is wrong by design
//   SCALES      0: one for A and one for B, applied in the epilogue;  1: A 1x128, B 128x128;  2: A 1x128, B 1x128
//   OUT         bytes per element of D: 2 for BF16, 4 for FP32
//   ADD         1: D += instead of D =
//   GROUPED     1: groups of rows have their own B; group g has rows starts[g] to starts[g] + counts[g]
//   ELEMENT     0: E4M3, summed in e8m13;  1: INT8, summed in int32;  2: E4M3 by E2M1, which is unpacked to E4M3 (unpack.cuh)
//   DEPTH       steps of K in flight per warpgroup; with 2, it promotes one step while its next wgmmas run
//   SLOTS       places for unpacked steps of B, at most STAGES; 0 where B is not packed

template <int> struct Summed { typedef float type; };  // type of the Tensor Core's accumulator, by ELEMENT
template <> struct Summed<1> { typedef int type; };
typedef Summed<ELEMENT>::type Part;
typedef Summed<PROMOTE ? 0 : ELEMENT>::type Sum;  // the whole sum: in FP32 if promoted

constexpr int WGS = BM > 64 ? 2 : 1, MATH = WGS * 128;
// Warps that unpack, and how many of them share a step.
constexpr int UNPACKERS = SLOTS ? 4 : 0, TEAM = BN <= 64 ? 1 : 2, FIRST_UNPACKER = MATH + 128;
constexpr int THREADS = MATH + 128 + 32 * UNPACKERS;
// An elected thread issues copies faster than a fixed one (ptx.cuh), which shortens small GEMMs. But block-scaled tiles of E4M3 with
// 192 columns then took 2 to 12 % longer on an H200, with equal code in the warpgroups that multiply.
constexpr bool ELECTED = !(ELEMENT == 0 && SCALES == 1 && BN == 192);
constexpr int PARTS = BM / WGS / 64, NACC = BN / 2;  // a warpgroup's rows are parts of 64
constexpr int MATH_REGISTERS = !UNPACKERS ? 232 : NACC * (PARTS + DEPTH) > 160 ? 216 : 208;  // of a multiplying thread; one that unpacks has the rest of 256
constexpr int CLUSTER = SHARE ? SHARERS : SPLIT, AHEAD = 4;
constexpr int TEAM_M = SHARE == 2 ? SHARERS : 1, TEAM_N = SHARE == 1 ? SHARERS : 1;
constexpr int A_ROWS = BM / TEAM_N, B_ROWS = BN / TEAM_M;  // rows per copy
constexpr unsigned short EVERYONE = (1 << SHARERS) - 1;
static_assert(!(SHARE && SPLIT > 1) && !(GROUPED && (ADD || SPLIT > 1)) && SPLIT <= 2, "not built");
static_assert(PARTS <= 2 && (PROMOTE <= 4 || PARTS == 1), "only one part outlives a stage");
static_assert(STAGES > 1, "a stage is released once the next one multiplies");
static_assert(STAGES >= SLOTS && (!SLOTS || STAGES >= UNPACKERS / TEAM), "unpackers tell the phases of a barrier apart by one bit");
static_assert((ELEMENT == 2) == (SLOTS > 0), "E2M1 alone is unpacked");
static_assert(ELEMENT != 2 || (SCALES == 1 && !GROUPED && BN % 16 == 0), "not built");
static_assert(DEPTH == 1 || (PARTS == 1 && (PROMOTE == 0 || (PROMOTE == 4 && SCALES == 1))), "two steps in flight, of one part each");

// Shared memory: the ring's operands (B packed, with its slots behind the ring, where it is E2M1), the staging of D, the sums
// received from the other half of K, the ring's scales, the barriers (full, empty, received, clear, unpacked), the table of
// unpack.cuh, the groups. With half of K and 256 rows, the received sums and the staging of D take the place of the ring, which a
// CTA no longer needs then: it has one tile.
constexpr int A_BYTES = BM * 128, B_BYTES = BN * 128, COPIED_B = ELEMENT == 2 ? B_BYTES / 2 : B_BYTES, STAGE = A_BYTES + COPIED_B;
constexpr int SLOTS_AT = STAGES * STAGE, RING = SLOTS_AT + SLOTS * B_BYTES;
constexpr int SA_BOX = GROUPED ? BM + 4 : BM;  // a group may start at any row, a copy only at a multiple of 4
constexpr int SA_FLOATS = SCALES ? (SA_BOX + 31) / 32 * 32 : 0, SB_FLOATS = SCALES == 2 ? (BN + 31) / 32 * 32 : SCALES ? 32 : 0;
constexpr int SHIFTS = ELEMENT == 2 ? BN * 4 : 0, SHIFTS_AT = (SA_FLOATS + SB_FLOATS) * 4;  // a byte per group of 32 of a row of B
constexpr int STAGE_SCALES = SHIFTS_AT + (SHIFTS + 127) / 128 * 128;
constexpr int EXPECTED = STAGE + (SCALES ? SA_BOX * 4 : 0) + (SCALES == 2 ? BN * 4 : 0) + SHIFTS;
constexpr int STORED = BN / SPLIT, NSTORED = STORED / 2;  // columns that this CTA stores
constexpr int BOXED = STORED / 16 * 16;                   // columns in bulk stores; the other 8, if any, are stored directly
constexpr int BOX = BOXED * OUT % 128 == 0 ? 128 / OUT : BOXED * OUT % 64 == 0 ? 64 / OUT : 32 / OUT;  // columns per bulk store
constexpr int STAGED = OUT == 2 ? PARTS : 1;  // parts of a warpgroup that are staged at once
constexpr int D_PART = 64 * BOXED * OUT, D_BYTES = (D_PART * STAGED + 1023) / 1024 * 1024;
constexpr int RECEIVED = SPLIT == 2 ? BM * STORED * 4 : 0;  // bytes of the other CTA's sums
constexpr bool IN_RING = SPLIT == 2 && PARTS == 2;
constexpr int D_AT = IN_RING ? RECEIVED : RING, RECEIVED_AT = IN_RING ? 0 : D_AT + WGS * D_BYTES;
constexpr int SCALES_AT = IN_RING ? RING : RECEIVED_AT + RECEIVED;
constexpr int BARRIERS_AT = SCALES_AT + STAGES * STAGE_SCALES, TABLE_AT = BARRIERS_AT + STAGES * (SLOTS ? 24 : 16) + 16;
constexpr int GROUPS_AT = TABLE_AT + (SLOTS ? 128 : 0);
static_assert(!IN_RING || D_AT + WGS * D_BYTES <= RING, "the ring is large enough");
static_assert(BOXED == STORED || (SPLIT == 1 && !ADD && !GROUPED), "not built");

// A tile starts at a multiple of STEP within a block of 128 columns of B, and overlaps at most BLOCKS of them.
constexpr int STEP = BN % 128 == 0 ? 128 : BN % 64 == 0 ? 64 : BN % 32 == 0 ? 32 : BN % 16 == 0 ? 16 : 8;
constexpr int BLOCKS = STEP == 128 ? (BN + 127) / 128 : (128 - STEP + BN + 127) / 128;

struct Arguments {
  const float *scale_b, *one_a, *one_b;
  const int *starts, *counts;
  void *d;
  int m, n, k, groups;
};

struct Tile {
  int row, rows, column;  // first row of A and D, valid rows, first column of D
  int group, from, to;    // group of B, and the range of K in steps of 128
};

// The walk over the tiles of this cluster: bands of rows, and within a band column by column. All roles take the same walk.
struct Walk {
  static constexpr int BAND = 2048 / (BM * TEAM_M) > 0 ? 2048 / (BM * TEAM_M) : 1;  // rows of teams per band; a wave then reads about as many rows of B as of A
  const Arguments &p;
  const int2 *groups;  // start and count of each group
  const int columns, stride;
  int g = 0, start = 0, count, rows, first = 0;  // group, its row range, its teams along M, and the band's start
  int i;                                         // index of the next team in the band

  __device__ Walk(const Arguments &p, const int2 *groups)
      : p(p), groups(groups), columns((p.n + BN * TEAM_N - 1) / (BN * TEAM_N)), stride(gridDim.x / CLUSTER), count(p.m), i(blockIdx.x / CLUSTER) {
    enter();
  }

  __device__ void enter() {
    if (GROUPED) start = groups[g].x, count = groups[g].y;
    rows = (count + BM * TEAM_M - 1) / (BM * TEAM_M);
    first = 0;
  }

  __device__ bool next(Tile &tile) {
    int height = min(BAND, rows - first);
    while (i >= height * columns) {
      i -= height * columns;
      first += BAND;
      if (first >= rows) {
        if (!GROUPED || ++g == p.groups) return false;
        enter();
      }
      height = min(BAND, rows - first);
    }
    const int rank = CLUSTER > 1 ? cluster_rank() : 0;
    const int of_column = height == BAND ? i / BAND : i / height, of_row = i - of_column * height;
    const int row = ((first + of_row) * TEAM_M + (SHARE == 2 ? rank : 0)) * BM;
    tile.row = start + row;
    tile.rows = count - row;
    tile.column = (of_column * TEAM_N + (SHARE == 1 ? rank : 0)) * BN;
    tile.group = g;
    const int part = SPLIT > 1 ? rank : 0, steps = (p.k + 127) / 128;
    tile.from = part * (steps / SPLIT) + min(part, steps % SPLIT);
    tile.to = tile.from + steps / SPLIT + (part < steps % SPLIT);
    i += stride;
    return true;
  }
};

struct Ring {
  int stage = 0, slot = 0;
  u32 parity = 0;
  __device__ void step() {
    constexpr int ROUND = SLOTS ? SLOTS : 1;
    if (++stage == STAGES) stage = 0, parity ^= 1;
    if (SLOTS) slot = STAGES % ROUND ? (slot + 1) % ROUND : stage % ROUND;
  }
};
