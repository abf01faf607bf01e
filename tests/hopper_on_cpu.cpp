// The asynchronous part of a Hopper SM, adversarial by design. Every thread is a fiber; warps run in random order and some stall
// for long; copies complete late; values that are undefined on the chip until a wait are NaN until then.
#include "hopper_on_cpu.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

Index threadIdx, blockIdx, gridDim;

namespace {

constexpr u32 BASE = 1024;  // address of a CTA's first byte of shared memory
constexpr int STACK = 1 << 16, GUARD = 4096;
constexpr u32 TOUCHED = 0x7fc0dead;  // a NaN: the value of an accumulator while its wgmmas run
constexpr unsigned char POISON = 0xff;  // NaN in E4M3, BF16 and FP32

struct Barrier {
  int count = 0, pending = 0, bytes = 0;
  u32 phase = 0;
};

struct Warp {
  int arrived = 0;
  u32 meetings = 0, asleep = 0;
  const char *where = "";
  u32 shuffled[32];
};

struct Named {
  int arrived = 0, threads = 0;
  u32 meetings = 0;
};

struct Cta {
  std::unique_ptr<char[]> memory;
  char *shared;
  std::vector<Barrier> barriers;  // by address, 8 bytes each
  std::vector<int> unfenced;      // thread + 1 that wrote these 8 bytes without a fence since
  Named named[16];
  int running = 0;
};

struct Multiplied {  // operand bytes that a wgmma of this thread reads, with their values
  u32 a, b, stride;
  int columns;
  bool whole;
  u64 sum;
};

struct Group {
  std::vector<Multiplied> work;
  std::vector<void *> targets;
};

struct Thread {
  ucontext_t context;
  int cta, index;
  bool done, fenced, ready;
  bool (*until)(void *);
  void *until_what;
  const char *why;
  u32 where;
  int which;
  Group open;
  std::vector<Group> groups;
  std::map<void *, std::vector<u32>> results;  // codes of the accumulators in flight
  std::vector<u32> unfenced;
  std::vector<std::shared_ptr<bool>> stores, uncommitted;  // each true once its source has been read
};

struct Event {
  bool is_load, add;
  TensorMap map;
  int x, y, cta;
  u32 at, barrier;
  std::shared_ptr<bool> read;
  std::shared_ptr<float4> sent;  // data of a copy from another CTA's registers
};

Launch launch;
ucontext_t scheduler;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<Cta> ctas;
std::vector<Event> events;
std::mt19937 random_bits;
Thread *self;
int cluster_arrived;
u32 cluster_meetings;
std::string failure;
void (*kernel)(void *);
void *kernel_context;

std::string name(const Thread &t) { return "CTA " + std::to_string(t.cta) + " thread " + std::to_string(t.index); }
std::string hex(u32 x) { char text[16]; std::snprintf(text, sizeof text, "0x%x", x); return text; }

void fail(const std::string &what) {
  if (failure.empty()) failure = (self ? name(*self) + ": " : "") + what;
  if (self) swapcontext(&self->context, &scheduler);
}

void pass() { swapcontext(&self->context, &scheduler); }

template <class Condition> void wait_until(const char *why, u32 where, int which, Condition condition) {
  self->until = [](void *c) { return (*(Condition *)c)(); };
  self->until_what = &condition;
  self->why = why, self->where = where, self->which = which;
  pass();
  self->until = nullptr;
}

bool chance(u32 one_in) { return random_bits() % one_in == 0; }

Warp &my_warp() { return warps[(self->cta * launch.threads + self->index) / 32]; }

void meet(const char *where) {
  Warp &warp = my_warp();
  if (warp.arrived == 0) warp.where = where;
  else if (std::strcmp(warp.where, where)) fail(std::string("its warp is apart: one lane at ") + where + ", another at " + warp.where);
  const u32 meeting = warp.meetings;
  if (++warp.arrived == 32) warp.arrived = 0, ++warp.meetings;
  else wait_until(where, 0, 0, [&warp, meeting] { return warp.meetings != meeting; });
}

char *memory(int cta, u32 address, int bytes, int alignment) {
  if (cta < 0 || cta >= launch.cluster) fail("no CTA " + std::to_string(cta) + " in the cluster");
  if (address < BASE || address + bytes > BASE + launch.shared_bytes) fail("shared address " + hex(address) + " is outside");
  if (address % alignment) fail("shared address " + hex(address) + " is no multiple of " + std::to_string(alignment));
  return ctas[cta].shared + (address - BASE);
}

Barrier &barrier(int cta, u32 address) {
  memory(cta, address, 8, 8);
  Barrier &b = ctas[cta].barriers[(address - BASE) / 8];
  if (b.count == 0) fail("no barrier at " + hex(address) + " of CTA " + std::to_string(cta));
  if (ctas[cta].running == 0) fail("CTA " + std::to_string(cta) + " has ended");
  return b;
}

void completed(Barrier &b) {
  if (b.pending == 0 && b.bytes == 0) ++b.phase, b.pending = b.count;
}

void arrive(int cta, u32 address, int bytes) {
  Barrier &b = barrier(cta, address);
  if (b.pending == 0) fail("more arrivals at barrier " + hex(address) + " than it expects");
  b.bytes += bytes, --b.pending;
  completed(b);
}

u32 swizzled(u32 address, int swizzle) { return address ^ (address >> 3 & (swizzle ? swizzle - 1 : 0) & 0x70); }

// Calls f for each row of the box, with its bytes in shared memory from `at` on and the x, y of its first element.
template <class F> void each_element(const TensorMap &map, u32 at, int cta, int x, int y, F f) {
  for (int r = 0; r < map.box_y; ++r)
    for (int c = 0; c < map.box_x; ++c) {
      const u32 address = swizzled(at + (r * map.box_x + c) * map.element, map.swizzle);
      const long long column = x + c, row = (long long)y + r;
      char *const global = column < 0 || row < 0 || column >= map.width || row >= map.rows ? nullptr : map.data + row * map.pitch + column * map.element;
      f(ctas[cta].shared + (address - BASE), global, address);
    }
}

void check_box(const TensorMap &map, u32 at, int cta) {
  memory(cta, at, map.box_x * map.box_y * map.element, map.swizzle == 128 ? 1024 : 128);
}

float add_fp32(const char *to, const char *what) {
  float x, y;
  std::memcpy(&x, to, 4), std::memcpy(&y, what, 4);
  return x + y;
}

void happen(const Event &e) {
  if (e.is_load) {
    if (ctas[e.cta].running == 0) return fail("a copy lands in CTA " + std::to_string(e.cta) + ", which has ended");
    if (e.sent) std::memcpy(memory(e.cta, e.at, 16, 16), e.sent.get(), 16);
    else
      each_element(e.map, e.at, e.cta, e.x, e.y, [&](char *to, const char *from, u32) {
        if (from) std::memcpy(to, from, e.map.element);
        else std::memset(to, 0, e.map.element);
      });
    Barrier &b = barrier(e.cta, e.barrier);
    b.bytes -= e.sent ? 16 : e.map.box_x * e.map.box_y * e.map.element;
    completed(b);
  } else {
    each_element(e.map, e.at, e.cta, e.x, e.y, [&](const char *from, char *to, u32) {
      if (!to) return;
      const float sum = e.add ? add_fp32(to, from) : 0;
      std::memcpy(to, e.add ? (const char *)&sum : from, e.map.element);
    });
    *e.read = true;
  }
}

// Completes one of the pending events. With `forced`, nothing else can make progress. Stores tend to read late.
void happen_at_random(bool forced) {
  std::size_t i = random_bits() % events.size();
  if (!events[i].is_load) {
    if (!forced && !chance(64)) return;
    for (std::size_t j = 0; launch.seed % 2 == 0 && j < events.size(); ++j) if (events[j].is_load) i = j;
  }
  std::swap(events[i], events.back());
  const Event e = events.back();
  events.pop_back();
  happen(e);
}

}  // namespace
#include "wgmma_on_cpu.h"
namespace {

void run_thread() {
  kernel(kernel_context);
  if (!self->groups.empty() || !self->open.work.empty()) fail("it ends while its wgmmas run");
  for (const auto &read : self->uncommitted) if (!*read) fail("it ends with a bulk store that was not committed");
  for (const auto &read : self->stores) if (!*read) fail("it ends while its bulk stores read shared memory");
  self->done = true;
  if (--ctas[self->cta].running == 0)
    for (const Event &e : events) if (e.is_load && e.cta == self->cta) fail("its CTA ends while copies into it are under way");
}

void resume(Thread &t) {
  self = &t;
  threadIdx.x = t.index, blockIdx.x = t.cta + blockIdx.x / launch.cluster * launch.cluster;
  swapcontext(&scheduler, &t.context);
  self = nullptr;
}

void report_deadlock() {
  std::map<std::string, int> waiting;
  for (const Thread &t : threads)
    if (!t.done) {
      std::string what = "CTA " + std::to_string(t.cta) + " warp " + std::to_string(t.index / 32) + " at " + t.why;
      if (t.where) {
        const Barrier &b = ctas[t.cta].barriers[(t.where - BASE) / 8];
        what += " " + hex(t.where) + " for parity " + std::to_string(t.which) + " (phase " + std::to_string(b.phase) + ", " +
                std::to_string(b.pending) + " arrivals and " + std::to_string(b.bytes) + " bytes to come)";
      } else if (t.which) what += " " + std::to_string(t.which - 1);
      ++waiting[what];
    }
  failure = "deadlock:";
  for (const auto &[what, count] : waiting) failure += "\n  " + std::to_string(count) + " threads of " + what;
}

void run_cluster(char *stacks) {
  const int count = launch.cluster * launch.threads;
  threads = std::vector<Thread>(count);
  warps = std::vector<Warp>(count / 32);
  ctas.clear(), events.clear();
  ctas.resize(launch.cluster);
  cluster_arrived = 0;
  for (Cta &cta : ctas) {
    cta.memory.reset(new char[launch.shared_bytes + GUARD + 1024]);
    cta.shared = cta.memory.get() + (1024 - (std::size_t)cta.memory.get() % 1024) % 1024;
    std::memset(cta.shared, POISON, launch.shared_bytes + GUARD);
    cta.barriers.resize(launch.shared_bytes / 8 + 1);
    cta.unfenced.assign(launch.shared_bytes / 8 + 1, 0);
    cta.running = launch.threads;
  }
  for (int i = 0; i < count; ++i) {
    Thread &t = threads[i];
    t.cta = i / launch.threads, t.index = i % launch.threads;
    t.done = t.fenced = t.ready = false, t.until = nullptr, t.why = "a point of rest", t.where = t.which = 0;
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = stacks + (std::size_t)i * STACK;
    t.context.uc_stack.ss_size = STACK;
    t.context.uc_link = &scheduler;
    makecontext(&t.context, run_thread, 0);
  }
  // The delay of copies, in turns of the scheduler, and the share of stalled warps differ between launches.
  const u32 late = 1 << launch.seed % 3 * 3, still = launch.seed % 2 ? 8 : 32;
  std::vector<int> order(warps.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (int done = 0; done < count && failure.empty();) {
    bool progress = false, slept = false;
    std::shuffle(order.begin(), order.end(), random_bits);
    for (int w : order) {
      if (warps[w].asleep > 0) { --warps[w].asleep, slept = true; continue; }
      if (chance(still)) warps[w].asleep = random_bits() % 64;
      for (int i = w * 32; i < w * 32 + 32 && failure.empty(); ++i) {
        Thread &t = threads[i];
        if (t.done || (t.until && !t.until(t.until_what))) continue;
        resume(t);
        progress = true;
        done += t.done;
      }
      if (!events.empty() && chance(late)) happen_at_random(false), progress = true;
    }
    if (progress || !failure.empty()) continue;
    if (slept) for (Warp &w : warps) w.asleep = 0;
    else if (!events.empty()) happen_at_random(true);
    else report_deadlock();
  }
  while (failure.empty() && !events.empty()) happen_at_random(true);
  for (const Cta &cta : ctas) {
    for (int i = 0; i < GUARD && failure.empty(); ++i)
      if ((unsigned char)cta.shared[launch.shared_bytes + i] != POISON) fail("a write beyond the end of shared memory");
    for (std::size_t i = 0; i < cta.barriers.size(); ++i)
      if (cta.barriers[i].bytes && failure.empty()) fail("barrier " + hex(BASE + i * 8) + " still expects bytes at the end");
  }
}

}  // namespace

const char *simulate(const Launch &what, void (*body)(void *), void *context) {
  launch = what, kernel = body, kernel_context = context;
  failure.clear();
  random_bits.seed(launch.seed);
  gridDim.x = launch.ctas;
  if (launch.ctas % launch.cluster) return "the grid is no multiple of the cluster";
  const std::unique_ptr<char[]> stacks(new char[(std::size_t)launch.cluster * launch.threads * STACK]);
  for (int first = 0; first < launch.ctas && failure.empty(); first += launch.cluster) blockIdx.x = first, run_cluster(stacks.get());
  return failure.empty() ? nullptr : failure.c_str();
}

// -- shared and global memory ----------------------------------------------------------------------------------------

char *shared_memory() { return ctas[self->cta].shared; }
u32 shared_address(const void *p) { return BASE + u32((const char *)p - ctas[self->cta].shared); }
void read_shared(u32 address, void *to, int bytes) { std::memcpy(to, memory(self->cta, address, bytes, bytes), bytes); }

void write_shared(u32 address, const void *from, int bytes) {
  std::memcpy(memory(self->cta, address, bytes, bytes), from, bytes);
  for (u32 at = address; at < address + bytes; at += 8) {
    ctas[self->cta].unfenced[(at - BASE) / 8] = self->index + 1;
    self->unfenced.push_back((at - BASE) / 8);
  }
}

float load_global(const float *p) {
  if (!self->ready) fail("global memory is read before the grid before has ended");
  if ((p < launch.scale_a || p >= launch.scale_a_end) && (p < launch.scale_b || p >= launch.scale_b_end)) fail("a read outside the scales");
  return *p;
}

void send(u32 to, int cta, float4 v, u32 bar) {
  std::memset(memory(cta, to, 16, 16), POISON, 16);
  events.push_back({true, false, {}, 0, 0, cta, to, bar, nullptr, std::make_shared<float4>(v)});
}

// -- barriers --------------------------------------------------------------------------------------------------------

void barrier_init(u32 bar, int arrivals) {
  memory(self->cta, bar, 8, 8);
  Barrier &b = ctas[self->cta].barriers[(bar - BASE) / 8];
  b.count = b.pending = arrivals;
}
void fence_barrier_init() {}
void barrier_expect(u32 bar, int bytes) { pass(), arrive(self->cta, bar, bytes); }
void barrier_arrive(u32 bar) { pass(), arrive(self->cta, bar, 0); }
void barrier_arrive(u32 bar, int cta) { pass(), arrive(cta, bar, 0); }

// The answer may be outdated: the phase may complete right after a no.
u32 barrier_test(u32 bar, u32 parity) { return (barrier(self->cta, bar).phase & 1) != parity && !chance(2); }

void barrier_wait(u32 bar, u32 parity) {
  Barrier &b = barrier(self->cta, bar);
  wait_until("barrier", bar, parity, [&b, parity] { return (b.phase & 1) != parity; });
}

void named_sync(int id, int count) {
  meet("bar.sync");
  Named &b = ctas[self->cta].named[id];
  if (b.arrived == 0) b.threads = count;
  if (b.threads != count) fail("named barrier " + std::to_string(id) + " with two counts");
  const u32 meeting = b.meetings;
  if (++b.arrived == count) b.arrived = 0, ++b.meetings;
  else wait_until("named barrier", 0, id + 1, [&b, meeting] { return b.meetings != meeting; });
}

void __syncthreads() { named_sync(0, launch.threads); }
void __syncwarp() { meet("__syncwarp"); }

u32 shuffle(u32 v, int lane) {
  my_warp().shuffled[self->index % 32] = v;
  meet("__shfl_sync");
  v = my_warp().shuffled[lane];
  meet("__shfl_sync");
  return v;
}

int cluster_rank() { return self->cta; }

void cluster_sync() {
  meet("cluster barrier");
  const u32 meeting = cluster_meetings;
  if (++cluster_arrived == launch.cluster * launch.threads) cluster_arrived = 0, ++cluster_meetings;
  else wait_until("cluster barrier", 0, 0, [meeting] { return cluster_meetings != meeting; });
}

// -- bulk copies -----------------------------------------------------------------------------------------------------

void tma_load(u32 to, const TensorMap *map, int x, int y, u32 bar, unsigned short mask) {
  pass();
  if (!self->ready) fail("global memory is read before the grid before has ended");
  for (int cta = 0; cta < launch.cluster; ++cta)
    if (mask >> cta & 1) {
      check_box(*map, to, cta);
      // The copy may complete at any time from now on, so the old contents are lost.
      std::memset(ctas[cta].shared + (to - BASE), POISON, map->box_x * map->box_y * map->element);
      events.push_back({true, false, *map, x, y, cta, to, bar, nullptr, nullptr});
    }
}
void tma_load(u32 to, const TensorMap *map, int x, int y, u32 bar) { tma_load(to, map, x, y, bar, 1 << self->cta); }

void tma_write(const TensorMap *map, u32 from, int x, int y, bool add) {
  pass();
  check_box(*map, from, self->cta);
  each_element(*map, from, self->cta, x, y, [](char *, char *, u32 address) {
    if (const int writer = ctas[self->cta].unfenced[(address - BASE) / 8])
      fail("a bulk store reads what thread " + std::to_string(writer - 1) + " wrote without a fence");
  });
  self->uncommitted.push_back(std::make_shared<bool>(false));
  events.push_back({false, add, *map, x, y, self->cta, from, 0, self->uncommitted.back(), nullptr});
}

void tma_commit() {
  self->stores.insert(self->stores.end(), self->uncommitted.begin(), self->uncommitted.end());
  self->uncommitted.clear();
}

void tma_wait_read() {
  Thread &t = *self;
  wait_until("bulk stores", 0, 0, [&t] { return std::all_of(t.stores.begin(), t.stores.end(), [](const auto &read) { return *read; }); });
  t.stores.clear();
}

void fence_async() {
  for (u32 i : self->unfenced)
    if (ctas[self->cta].unfenced[i] == self->index + 1) ctas[self->cta].unfenced[i] = 0;
  self->unfenced.clear();
}

// -- epilogue --------------------------------------------------------------------------------------------------------

u32 pack_bf16(float low, float high) {
  const float both[2] = {low, high};
  u32 pair = 0;
  for (int i = 0; i < 2; ++i) {
    u32 u;
    std::memcpy(&u, &both[i], 4);
    pair |= (both[i] != both[i] ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16) << 16 * i;
  }
  return pair;
}

// Four 8x8 matrices of 2-byte elements. Lane l holds elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each matrix; lanes 8 i to
// 8 i + 7 give the addresses of the rows of matrix i.
void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
  const u32 mine[4] = {a, b, c, d};
  const int lane = self->index % 32;
  u32 row[4];
  for (int matrix = 0; matrix < 4; ++matrix) {
    my_warp().shuffled[lane] = mine[matrix];
    meet("stmatrix");
    if (lane / 8 == matrix) std::memcpy(row, &my_warp().shuffled[lane % 8 * 4], 16);
    meet("stmatrix");
  }
  write_shared(address, row, 16);
}

void wait_for_inputs() { self->ready = true; }
void release_next() {}
