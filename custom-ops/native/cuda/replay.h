// Work that a session enqueues again and again with the same arguments, launched as one CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

namespace onnxrewrite::cuda {

/**
 * Launching a graph costs the host as much as launching one or two kernels, and kernels of a graph follow one another
 * more closely. Arguments are part of a graph, so it serves only where all of them recur: shapes and, since sessions lay
 * out their memory alike from run to run, addresses too.
 */
class Replay {
 public:
  /** Everything that the work depends on, addresses included. */
  using Key = std::vector<uint64_t>;

  Replay() = default;
  ~Replay() {
    for (Recording& recording : recordings_) recording.destroy();
    if (stream_) cudaStreamDestroy(stream_);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  /**
   * Enqueues on `stream` what `enqueue(cudaStream_t)` enqueues for this key: by calling it for a new key or within
   * somebody's capture of `stream`, by a graph from the second time on.
   */
  template <class Enqueue>
  cudaError_t run(Key key, cudaStream_t stream, const Enqueue& enqueue) {
    cudaStreamCaptureStatus capture;
    const cudaError_t status = cudaStreamIsCapturing(stream, &capture);
    if (status != cudaSuccess) return status;
    if (capture != cudaStreamCaptureStatusNone) return enqueue(stream);

    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = find(key);
    if (found == recordings_.end()) {
      remember(std::move(key));
      return enqueue(stream);
    }
    recordings_.splice(recordings_.begin(), recordings_, found);
    if (!found->graph && !found->refused) found->refused = record(enqueue, found->graph) != cudaSuccess;
    return found->refused ? enqueue(stream) : cudaGraphLaunch(found->graph, stream);
  }

  /** How many graphs there are. */
  size_t graphs() const {
    return static_cast<size_t>(std::count_if(recordings_.begin(), recordings_.end(),
                                             [](const Recording& recording) { return recording.graph != nullptr; }));
  }

 private:
  struct Recording {
    Key key;
    cudaGraphExec_t graph = nullptr;
    /** Whether it could not be recorded. */
    bool refused = false;

    void destroy() {
      // One that still runs is given up when it ends.
      if (graph) cudaGraphExecDestroy(graph);
    }
  };

  /** More than the places that results a caller still holds make a session's memory take turns between. */
  static constexpr size_t kMostRecordings = 8;

  std::list<Recording>::iterator find(const Key& key) {
    auto at = recordings_.begin();
    while (at != recordings_.end() && at->key != key) ++at;
    return at;
  }

  void remember(Key key) {
    if (recordings_.size() == kMostRecordings) {
      recordings_.back().destroy();
      recordings_.pop_back();
    }
    recordings_.push_front({std::move(key)});
  }

  template <class Enqueue>
  cudaError_t record(const Enqueue& enqueue, cudaGraphExec_t& result) {
    if (!stream_) {
      const cudaError_t created = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
      if (created != cudaSuccess) return created;
    }
    cudaError_t status = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    if (status != cudaSuccess) return status;
    status = enqueue(stream_);
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    if (status == cudaSuccess) status = ended;
    if (status == cudaSuccess) status = cudaGraphInstantiate(&result, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    // The error is dealt with: the next launch must not find it.
    if (status != cudaSuccess) cudaGetLastError();
    return status;
  }

  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  /** The last used first. */
  std::list<Recording> recordings_;
};

}  // namespace onnxrewrite::cuda
