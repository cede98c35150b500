#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "emulation.h"

#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace onnxrewrite::emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 1024;

struct Copy {
  void* shared;
  const void* global;
  bool valid;
  size_t bytes;
};

#if defined(__x86_64__)
using Context = void*;
extern "C" void onnxrewriteSwitch(void** save, void* load);
asm(R"(
.text
.globl onnxrewriteSwitch
onnxrewriteSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
using Context = ucontext_t;
#endif

struct Fiber {
  Lane lane;
  Context context;
  std::unique_ptr<char[]> stack;
  bool finished;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

/** Lanes of several masks may meet at the same time. */
struct WarpRendezvous {
  unsigned arrived = 0;
  unsigned released = 0;
  void* data[32] = {};
};

struct GroupRendezvous {
  unsigned arrived = 0;
  unsigned generation = 0;
  void* data[128] = {};
};

/** What the eight bytes of a barrier hold. */
struct Barrier {
  uint16_t arrivals;
  uint16_t pending : 15;
  uint16_t phase : 1;
  int32_t bytes;
};
static_assert(sizeof(Barrier) == 8);

/** A copy of the copy engine that has not landed yet. */
struct BulkCopy {
  uint64_t* barrier;
  int bytes;
  std::function<void()> land;
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<WarpRendezvous> warps;
std::vector<GroupRendezvous> groups;
std::vector<BulkCopy> bulkCopies;
unsigned blockGeneration;
Fiber* current;
Context scheduler;
const std::function<void()>* body;
unsigned threads, running, waiting, progress, scheduleSeed;
uint3 blockAt;
dim3 grid;
std::vector<unsigned char> sharedBytesStore;
unsigned char* sharedBase;
size_t sharedSize;

void switchToScheduler() {
#if defined(__x86_64__)
  onnxrewriteSwitch(&current->context, scheduler);
#else
  swapcontext(&current->context, &scheduler);
#endif
}

void fiberMain() {
  (*body)();
  current->finished = true;
  running--;
  progress++;
  switchToScheduler();
  std::abort();
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
  std::memset(fiber.stack.get(), 0x5a, kGuardBytes);
  fiber.finished = false;
  fiber.groups.clear();
  fiber.open.clear();
#if defined(__x86_64__)
  auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStackBytes) & ~uintptr_t{15};
  auto* slot = reinterpret_cast<void**>(top);
  *--slot = nullptr;
  *--slot = reinterpret_cast<void*>(&fiberMain);
  for (int i = 0; i < 6; i++) *--slot = nullptr;
  fiber.context = slot;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, &fiberMain, 0);
#endif
}

void resume(Fiber& fiber) {
  current = &fiber;
#if defined(__x86_64__)
  onnxrewriteSwitch(&scheduler, fiber.context);
#else
  swapcontext(&scheduler, &fiber.context);
#endif
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s (block %u,%u,%u)\n", what, blockAt.x, blockAt.y, blockAt.z);
  std::abort();
}

void land(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (copy.valid)
      std::memcpy(copy.shared, copy.global, copy.bytes);
    else
      std::memset(copy.shared, 0, copy.bytes);
  }
}

void runBlock(std::mt19937& random) {
  std::memset(sharedBase, 0xff, sharedSize);
  running = threads;
  waiting = 0;
  blockGeneration = 0;
  warps.assign((threads + 31) / 32, {});
  groups.assign((threads + 127) / 128, {});
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  if (scheduleSeed) std::shuffle(order.begin(), order.end(), random);
  for (unsigned t = 0; t < threads; t++) {
    fibers[t]->lane = {{t, 0, 0}, static_cast<int>(t % 32)};
    prepare(*fibers[t]);
  }
  while (running > 0) {
    unsigned before = progress;
    for (unsigned t : order)
      if (!fibers[t]->finished) resume(*fibers[t]);
    if (progress == before) fail("deadlock: threads wait for a barrier or warp operation that others never reach");
  }
  if (!bulkCopies.empty()) fail("a block ended before its copies landed");
  for (unsigned t = 0; t < threads; t++)
    for (size_t i = 0; i < kGuardBytes; i++)
      if (fibers[t]->stack[i] != 0x5a) fail("stack overflow");
}

}  // namespace

Lane& lane() { return current->lane; }
uint3 blockIndex() { return blockAt; }
dim3 blockSize() { return dim3(threads); }
dim3 gridSize() { return grid; }
unsigned char* dynamicShared() { return sharedBase; }
void setSchedule(unsigned seed) { scheduleSeed = seed; }

void syncBlock() {
  unsigned generation = blockGeneration;
  waiting++;
  progress++;
  if (waiting == threads) {
    waiting = 0;
    blockGeneration++;
    return;
  }
  while (blockGeneration == generation) switchToScheduler();
}

void meet(unsigned mask, void* data, const std::function<void(void* const* lanes)>& combine) {
  WarpRendezvous& warp = warps[current->lane.thread.x / 32];
  unsigned bit = 1u << current->lane.lane;
  if (!(mask & bit)) fail("a lane outside its own mask");
  unsigned present = threads - current->lane.thread.x / 32 * 32;
  if (present < 32) mask &= (1u << present) - 1;
  warp.arrived |= bit;
  warp.data[current->lane.lane] = data;
  progress++;
  if ((warp.arrived & mask) == mask) {
    void* lanes[32] = {};
    for (int l = 0; l < 32; l++)
      if (mask >> l & 1) lanes[l] = warp.data[l];
    combine(lanes);
    warp.arrived &= ~mask;
    warp.released |= mask & ~bit;
    return;
  }
  while (!(warp.released & bit)) switchToScheduler();
  warp.released &= ~bit;
}

void runGrid(dim3 size, unsigned count, size_t sharedBytes, const std::function<void()>& kernel) {
  grid = size;
  threads = count;
  body = &kernel;
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  sharedSize = sharedBytes;
  constexpr size_t kAlignment = 1024;
  sharedBytesStore.assign(sharedBytes + kAlignment, 0);
  sharedBase = sharedBytesStore.data() + (kAlignment - reinterpret_cast<uintptr_t>(sharedBytesStore.data()) % kAlignment) % kAlignment;
  std::mt19937 random(scheduleSeed);
  std::vector<unsigned> order(size.x * size.y * size.z);
  std::iota(order.begin(), order.end(), 0u);
  if (scheduleSeed) std::shuffle(order.begin(), order.end(), random);
  for (unsigned at : order) {
    blockAt = {at % size.x, at / size.x % size.y, at / size.x / size.y};
    runBlock(random);
  }
}

void copyAsync(void* shared, const void* global, bool valid, size_t bytes) {
  auto* at = static_cast<unsigned char*>(shared);
  if (at < sharedBase || at + bytes > sharedBase + sharedSize) fail("asynchronous copy outside shared memory");
  if (reinterpret_cast<uintptr_t>(shared) % bytes || (valid && reinterpret_cast<uintptr_t>(global) % bytes))
    fail("asynchronous copy not aligned");
  current->open.push_back({shared, global, valid, bytes});
}

void commitCopies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void waitForCopies(int pending) {
  auto& groups = current->groups;
  while (groups.size() > static_cast<size_t>(pending)) {
    land(groups.front());
    groups.erase(groups.begin());
  }
}

void meetGroup(void* data, const std::function<void(void* const* threads)>& combine) {
  GroupRendezvous& group = groups[current->lane.thread.x / 128];
  group.data[current->lane.thread.x % 128] = data;
  progress++;
  if (++group.arrived == 128) {
    combine(group.data);
    group.arrived = 0;
    group.generation++;
    return;
  }
  unsigned generation = group.generation;
  while (group.generation == generation) switchToScheduler();
}

cudaError_t encodeTensorMap(TensorMap& map, const void* data, bool, int columns, int rows, int parts) {
  map = {static_cast<const uint16_t*>(data), columns, rows, parts};
  return columns % 8 == 0 && columns <= 64 ? cudaSuccess : cudaErrorInvalidValue;
}

namespace {
void endPhaseIfComplete(Barrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes > 0) return;
  barrier.pending = barrier.arrivals;
  barrier.phase ^= 1;
  progress++;
}
}  // namespace

void initBarrier(uint64_t* barrier, int arrivals) {
  auto& state = *reinterpret_cast<Barrier*>(barrier);
  state.arrivals = static_cast<uint16_t>(arrivals);
  state.pending = arrivals & 0x7fff;
  state.phase = 0;
  state.bytes = 0;
}

void arrive(uint64_t* barrier, int bytes) {
  auto& state = *reinterpret_cast<Barrier*>(barrier);
  if (state.pending == 0) fail("more arrivals at a barrier than it was made for");
  state.bytes += bytes;
  state.pending = (state.pending - 1) & 0x7fff;
  progress++;
  endPhaseIfComplete(state);
}

void waitBarrier(uint64_t* barrier, int parity) {
  auto& state = *reinterpret_cast<Barrier*>(barrier);
  while (state.phase == parity) {
    for (size_t i = 0; i < bulkCopies.size(); i++) {
      if (bulkCopies[i].barrier != barrier) continue;
      BulkCopy copy = bulkCopies[i];
      bulkCopies.erase(bulkCopies.begin() + static_cast<long>(i--));
      copy.land();
      state.bytes -= copy.bytes;
      endPhaseIfComplete(state);
    }
    if (state.phase == parity) switchToScheduler();
  }
}

void copyTile(void* shared, const TensorMap* map, uint64_t* barrier, int row, int part) {
  if (reinterpret_cast<uintptr_t>(shared) % 1024) fail("a tile not aligned to 1024 bytes");
  auto* target = static_cast<uint16_t*>(shared);
  const TensorMap from = *map;
  bulkCopies.push_back({barrier, 64 * 128, [=] {
                          for (int r = 0; r < 64; r++)
                            for (int c = 0; c < 64; c++) {
                              bool inside = row + r >= 0 && row + r < from.rows && part < from.parts && c < from.columns;
                              target[r * 64 + ((c / 8 ^ (r & 7)) * 8) + c % 8] =
                                  inside ? from.data[(static_cast<size_t>(part) * from.rows + row + r) * from.columns + c] : 0;
                            }
                        }});
}

void copyRun(void* shared, const void* global, int bytes, uint64_t* barrier) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16 || bytes % 16)
    fail("a bulk copy not aligned to 16 bytes");
  bulkCopies.push_back({barrier, bytes, [=] { std::memcpy(shared, global, static_cast<size_t>(bytes)); }});
}

}  // namespace onnxrewrite::emulation

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* target, size_t targetPitch, const void* source, size_t sourcePitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < height; row++)
    std::memcpy(static_cast<char*>(target) + row * targetPitch, static_cast<const char*>(source) + row * sourcePitch,
                width);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* target, int value, size_t bytes) { return cudaMemsetAsync(target, value, bytes, nullptr); }

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

// Everything runs at once and in order, so that streams and events have nothing to do.
cudaError_t cudaDeviceGetStreamPriorityRange(int*, int*) { return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t*, unsigned, int) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t) { return "error"; }
