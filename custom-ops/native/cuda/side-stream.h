// A second stream, for kernels that need not wait for those of the first.
#pragma once

#include <cuda_runtime.h>

#include <mutex>

namespace onnxrewrite::cuda {

/**
 * What is enqueued on stream() between fork(main) and join(main) follows what stood on `main` before, precedes what comes
 * after, and runs beside what is between; its blocks go first where both have some. Works in the capture of a graph.
 */
class SideStream {
 public:
  SideStream() = default;
  ~SideStream() {
    if (joined_) cudaEventDestroy(joined_);
    if (forked_) cudaEventDestroy(forked_);
    if (stream_) cudaStreamDestroy(stream_);
  }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  /** The rest is for one host thread at a time, from fork to join: hold this. */
  std::mutex& mutex() { return mutex_; }
  cudaStream_t stream() const { return stream_; }

  cudaError_t fork(cudaStream_t main) {
    cudaError_t status = stream_ ? cudaSuccess : create();
    if (status == cudaSuccess) status = cudaEventRecord(forked_, main);
    return status == cudaSuccess ? cudaStreamWaitEvent(stream_, forked_, 0) : status;
  }
  cudaError_t join(cudaStream_t main) {
    const cudaError_t status = cudaEventRecord(joined_, stream_);
    return status == cudaSuccess ? cudaStreamWaitEvent(main, joined_, 0) : status;
  }

 private:
  /** On the device that is current when it is first needed. */
  cudaError_t create() {
    int least = 0, greatest = 0;
    cudaError_t status = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (status == cudaSuccess) status = cudaEventCreateWithFlags(&forked_, cudaEventDisableTiming);
    if (status == cudaSuccess) status = cudaEventCreateWithFlags(&joined_, cudaEventDisableTiming);
    return status == cudaSuccess ? cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest) : status;
  }

  cudaStream_t stream_ = nullptr;
  cudaEvent_t forked_ = nullptr, joined_ = nullptr;
  std::mutex mutex_;
};

}  // namespace onnxrewrite::cuda
