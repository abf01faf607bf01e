// A tile of D, where its parts lie in shared memory, and the walk over all tiles. The tile's parameters stand before this text
// as constants (tile.py):
//   BM, BN      rows and columns of D in a CTA's tile; one math warpgroup has 64 rows of it, two have 128 or 256
//   STAGES      stages of the ring
//   SHARE       1: SHARERS CTAs side by side along N share A; 2: along M they share B; each loads its part for all (multicast)
//   SPLIT       2: two CTAs of a cluster share a tile, each with a half of K; each sums and stores half of its columns
//   PROMOTE     wgmmas (32 of K each) between promotions; 0: never, the Tensor Core's accumulator runs through. With group
//               scales that is a timing twin: they are loaded but not applied, and D is wrong by design
//   SCALES      0: one for A times one for B, in the epilogue;  1: A 1x128, B 128x128;  2: A 1x128, B 1x128
//   OUT         bytes of an element of D: 2 BF16, 4 FP32;  ADD: D += instead of D =
//   GROUPED     rows come in groups, each with its own B: group g has rows [starts[g], starts[g] + counts[g])
//   DEPTH       steps of K of a warpgroup in flight: with 2, it promotes one while its own next wgmmas run

constexpr int WGS = BM > 64 ? 2 : 1, MATH = WGS * 128, THREADS = MATH + 128;
constexpr int PARTS = BM / WGS / 64, NACC = BN / 2;  // a warpgroup's tile: parts of 64 rows
constexpr int CLUSTER = SHARE ? SHARERS : SPLIT, AHEAD = 4;
constexpr int TEAM_M = SHARE == 2 ? SHARERS : 1, TEAM_N = SHARE == 1 ? SHARERS : 1;
constexpr int A_ROWS = BM / TEAM_N, B_ROWS = BN / TEAM_M;  // of one copy
constexpr unsigned short EVERYONE = (1 << SHARERS) - 1;
static_assert(!(SHARE && SPLIT > 1) && !(GROUPED && (ADD || SPLIT > 1)) && SPLIT <= 2, "not built");
static_assert(PARTS <= 2 && (PROMOTE <= 4 || PARTS == 1), "only one part outlives a stage");
static_assert(STAGES > 1, "a stage is released once the next one multiplies");
static_assert(DEPTH == 1 || (PARTS == 1 && (PROMOTE == 0 || (PROMOTE == 4 && SCALES))), "two steps in flight, of one part each");

// Shared memory: the ring's operands, D's staging, what the other half of K sums to, the ring's scales, the barriers (full,
// empty, received), the groups.
constexpr int A_BYTES = BM * 128, STAGE = A_BYTES + BN * 128;
constexpr int SA_BOX = GROUPED ? BM + 4 : BM;  // a group's first row may lie anywhere, a copy starts at a multiple of 4
constexpr int SA_FLOATS = SCALES ? (SA_BOX + 31) / 32 * 32 : 0, SB_FLOATS = SCALES == 2 ? (BN + 31) / 32 * 32 : SCALES ? 32 : 0;
constexpr int STAGE_SCALES = (SA_FLOATS + SB_FLOATS) * 4;
constexpr int EXPECTED = STAGE + (SCALES ? SA_BOX * 4 : 0) + (SCALES == 2 ? BN * 4 : 0);
constexpr int STORED = BN / SPLIT, NSTORED = STORED / 2;  // columns of the tile that this CTA stores
constexpr int BOXED = STORED / 16 * 16;                   // of them in bulk; 8 may be left, which go straight to memory
constexpr int BOX = BOXED * OUT % 128 == 0 ? 128 / OUT : BOXED * OUT % 64 == 0 ? 64 / OUT : 32 / OUT;  // columns of one store
constexpr int STAGED = OUT == 2 ? PARTS : 1;  // parts of a warpgroup's tile that are staged for storing at once
constexpr int D_PART = 64 * BOXED * OUT, D_BYTES = (D_PART * STAGED + 1023) / 1024 * 1024;
constexpr int RECEIVED = SPLIT == 2 ? BM * STORED * 4 : 0;  // bytes of the other CTA's sums
constexpr int D_AT = STAGES * STAGE, RECEIVED_AT = D_AT + WGS * D_BYTES, SCALES_AT = RECEIVED_AT + RECEIVED;
constexpr int BARRIERS_AT = SCALES_AT + STAGES * STAGE_SCALES, GROUPS_AT = BARRIERS_AT + STAGES * 16 + 8;
static_assert(BOXED == STORED || (SPLIT == 1 && !ADD && !GROUPED), "not built");

// A warpgroup's tile starts at a multiple of STEP in a 128 block of B's columns, and meets at most BLOCKS of them.
constexpr int STEP = BN % 128 == 0 ? 128 : BN % 64 == 0 ? 64 : BN % 32 == 0 ? 32 : BN % 16 == 0 ? 16 : 8;
constexpr int BLOCKS = STEP == 128 ? (BN + 127) / 128 : (128 - STEP + BN + 127) / 128;

struct Arguments {
  const float *scale_b, *one_a, *one_b;
  const int *starts, *counts;
  void *d;
  int m, n, k, groups;
};

struct Tile {
  int row, rows, column;  // first row of A and D, rows that count, first column of D
  int group, from, to;    // group of B, and the stretch of K in steps of 128
};

// Walks the tiles of this cluster, band by band of rows, and in a band column by column; every role walks the same way.
struct Walk {
  static constexpr int BAND = 2048 / (BM * TEAM_M) > 0 ? 2048 / (BM * TEAM_M) : 1;  // teams; about as many rows of B are at work
  const Arguments &p;
  const int2 *groups;  // start and count of each
  const int columns, stride;
  int g = 0, start = 0, count, rows, first = 0;  // the group, its teams along M, and where the band starts
  int i;                                         // the next team's number in the band

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
  int stage = 0;
  u32 parity = 0;
  __device__ void step() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};
