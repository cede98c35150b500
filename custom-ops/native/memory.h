// Scratch memory of one run: taken from an allocator that the caller names, always given back.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace onnxrewrite {

// Where scratch memory comes from. Calls may come from several threads at once.
class Allocator {
 public:
  virtual ~Allocator() = default;
  // At least 64-byte aligned; throws std::bad_alloc.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
};

// The process's own memory, for what outlives a run.
class HeapMemory : public Allocator {
 public:
  void* allocate(size_t bytes) override { return ::operator new(bytes, kAlignment); }
  void release(void* memory) noexcept override { ::operator delete(memory, kAlignment); }

 private:
  static constexpr std::align_val_t kAlignment{64};
};

// Uninitialized array of trivial elements.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Allocator& allocator, size_t count) { reset(allocator, count); }
  Buffer(Buffer&& other) noexcept
      : allocator_(other.allocator_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(allocator_, other.allocator_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_) allocator_->release(data_);
  }

  // At least `count` elements, contents undefined; keeps what is large enough.
  T* reset(Allocator& allocator, size_t count) {
    if (count > size_) {
      if (data_) allocator_->release(std::exchange(data_, nullptr));
      size_ = 0;
      allocator_ = &allocator;
      if (count > static_cast<size_t>(-1) / sizeof(T)) throw std::bad_alloc();
      data_ = static_cast<T*>(allocator.allocate(count * sizeof(T)));
      size_ = count;
    }
    return data_;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }

 private:
  Allocator* allocator_ = nullptr;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace onnxrewrite
