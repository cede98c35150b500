// The part of ONNX Runtime's C ABI that this project uses, written down by hand so that no ONNX Runtime
// headers are needed to build. The ABI is a table of functions that only ever grows: a function is named by
// its place in it. test/native/ort-abi.test.ts checks the places and layouts against the real header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxrewrite::ort {

// The lowest version of the API that has everything named here.
constexpr uint32_t kApiVersion = 18;

struct Status;
struct Env;
struct MemoryInfo;
struct Allocator;
struct Session;
struct SessionOptions;
struct RunOptions;
struct Value;
struct TypeInfo;
struct TensorTypeAndShapeInfo;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct CudaProviderOptions;
struct IoBinding;

enum ErrorCode : int32_t { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };
enum OnnxType : int32_t { kTypeUnknown = 0, kTypeTensor = 1 };
enum ElementType : int32_t {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBfloat16 = 16,
  kUint4 = 21,
  kInt4 = 22,
};
enum AllocatorType : int32_t { kArenaAllocator = 1 };
enum MemoryType : int32_t { kMemoryDefault = 0 };
enum Characteristic : int32_t { kRequired = 0, kOptional = 1 };

// X(place, result, name, parameters)
#define ONNXREWRITE_ORT_FUNCTIONS(X)                                                                          \
  X(0, Status*, CreateStatus, (ErrorCode code, const char* message))                                          \
  X(2, const char*, GetErrorMessage, (const Status* status))                                                  \
  X(3, Status*, CreateEnv, (int32_t severity, const char* id, Env** out))                                     \
  X(7, Status*, CreateSession, (const Env*, const char* path, const SessionOptions*, Session** out))          \
  X(8, Status*, CreateSessionFromArray,                                                                       \
    (const Env*, const void* model, size_t bytes, const SessionOptions*, Session** out))                      \
  X(9, Status*, Run,                                                                                          \
    (Session*, const RunOptions*, const char* const* inputNames, const Value* const* inputs,                  \
     size_t inputCount, const char* const* outputNames, size_t outputCount, Value** outputs))                 \
  X(10, Status*, CreateSessionOptions, (SessionOptions * *out))                                               \
  X(11, Status*, SetOptimizedModelFilePath, (SessionOptions*, const char* path))                              \
  X(13, Status*, SetSessionExecutionMode, (SessionOptions*, int32_t mode))                                    \
  X(14, Status*, EnableProfiling, (SessionOptions*, const char* prefix))                                      \
  X(17, Status*, DisableMemPattern, (SessionOptions*))                                                        \
  X(19, Status*, DisableCpuMemArena, (SessionOptions*))                                                       \
  X(20, Status*, SetSessionLogId, (SessionOptions*, const char* id))                                          \
  X(21, Status*, SetSessionLogVerbosityLevel, (SessionOptions*, int level))                                   \
  X(22, Status*, SetSessionLogSeverityLevel, (SessionOptions*, int level))                                    \
  X(23, Status*, SetSessionGraphOptimizationLevel, (SessionOptions*, int32_t level))                          \
  X(24, Status*, SetIntraOpNumThreads, (SessionOptions*, int threads))                                        \
  X(25, Status*, SetInterOpNumThreads, (SessionOptions*, int threads))                                        \
  X(26, Status*, CreateCustomOpDomain, (const char* domain, CustomOpDomain** out))                            \
  X(27, Status*, CustomOpDomain_Add, (CustomOpDomain*, const struct CustomOp*))                               \
  X(28, Status*, AddCustomOpDomain, (SessionOptions*, CustomOpDomain*))                                       \
  X(30, Status*, SessionGetInputCount, (const Session*, size_t* out))                                         \
  X(31, Status*, SessionGetOutputCount, (const Session*, size_t* out))                                        \
  X(33, Status*, SessionGetInputTypeInfo, (const Session*, size_t index, TypeInfo** out))                     \
  X(34, Status*, SessionGetOutputTypeInfo, (const Session*, size_t index, TypeInfo** out))                    \
  X(36, Status*, SessionGetInputName, (const Session*, size_t index, Allocator*, char** out))                 \
  X(37, Status*, SessionGetOutputName, (const Session*, size_t index, Allocator*, char** out))                \
  X(39, Status*, CreateRunOptions, (RunOptions * *out))                                                       \
  X(40, Status*, RunOptionsSetRunLogVerbosityLevel, (RunOptions*, int level))                                 \
  X(41, Status*, RunOptionsSetRunLogSeverityLevel, (RunOptions*, int level))                                  \
  X(42, Status*, RunOptionsSetRunTag, (RunOptions*, const char* tag))                                         \
  X(48, Status*, CreateTensorAsOrtValue,                                                                      \
    (Allocator*, const int64_t* shape, size_t rank, ElementType, Value** out))                                \
  X(49, Status*, CreateTensorWithDataAsOrtValue,                                                              \
    (const MemoryInfo*, void* data, size_t bytes, const int64_t* shape, size_t rank, ElementType,             \
     Value** out))                                                                                            \
  X(51, Status*, GetTensorMutableData, (Value*, void** out))                                                  \
  X(52, Status*, FillStringTensor, (Value*, const char* const* strings, size_t count))                        \
  X(53, Status*, GetStringTensorDataLength, (const Value*, size_t* out))                                      \
  X(54, Status*, GetStringTensorContent,                                                                      \
    (const Value*, void* data, size_t bytes, size_t* offsets, size_t count))                                  \
  X(55, Status*, CastTypeInfoToTensorInfo, (const TypeInfo*, const TensorTypeAndShapeInfo** out))             \
  X(60, Status*, GetTensorElementType, (const TensorTypeAndShapeInfo*, ElementType* out))                     \
  X(61, Status*, GetDimensionsCount, (const TensorTypeAndShapeInfo*, size_t* out))                            \
  X(62, Status*, GetDimensions, (const TensorTypeAndShapeInfo*, int64_t* dims, size_t rank))                  \
  X(63, Status*, GetSymbolicDimensions, (const TensorTypeAndShapeInfo*, const char** names, size_t rank))     \
  X(64, Status*, GetTensorShapeElementCount, (const TensorTypeAndShapeInfo*, size_t* out))                    \
  X(65, Status*, GetTensorTypeAndShape, (const Value*, TensorTypeAndShapeInfo** out))                         \
  X(67, Status*, GetValueType, (const Value*, OnnxType* out))                                                 \
  X(68, Status*, CreateMemoryInfo,                                                                            \
    (const char* name, AllocatorType, int device, MemoryType, MemoryInfo** out))                              \
  X(69, Status*, CreateCpuMemoryInfo, (AllocatorType, MemoryType, MemoryInfo** out))                          \
  X(75, Status*, AllocatorAlloc, (Allocator*, size_t bytes, void** out))                                      \
  X(76, Status*, AllocatorFree, (Allocator*, void* memory))                                                   \
  X(78, Status*, GetAllocatorWithDefaultOptions, (Allocator * *out))                                          \
  X(85, Status*, KernelInfoGetAttribute_float, (const KernelInfo*, const char* name, float* out))             \
  X(86, Status*, KernelInfoGetAttribute_int64, (const KernelInfo*, const char* name, int64_t* out))           \
  X(87, Status*, KernelInfoGetAttribute_string,                                                               \
    (const KernelInfo*, const char* name, char* out, size_t* size))                                           \
  X(88, Status*, KernelContext_GetInputCount, (const KernelContext*, size_t* out))                            \
  X(89, Status*, KernelContext_GetOutputCount, (const KernelContext*, size_t* out))                           \
  X(90, Status*, KernelContext_GetInput, (const KernelContext*, size_t index, const Value** out))             \
  X(91, Status*, KernelContext_GetOutput,                                                                     \
    (KernelContext*, size_t index, const int64_t* dims, size_t rank, Value** out))                            \
  X(93, void, ReleaseStatus, (Status*))                                                                       \
  X(94, void, ReleaseMemoryInfo, (MemoryInfo*))                                                               \
  X(95, void, ReleaseSession, (Session*))                                                                     \
  X(96, void, ReleaseValue, (Value*))                                                                         \
  X(97, void, ReleaseRunOptions, (RunOptions*))                                                               \
  X(98, void, ReleaseTypeInfo, (TypeInfo*))                                                                   \
  X(99, void, ReleaseTensorTypeAndShapeInfo, (TensorTypeAndShapeInfo*))                                       \
  X(100, void, ReleaseSessionOptions, (SessionOptions*))                                                      \
  X(101, void, ReleaseCustomOpDomain, (CustomOpDomain*))                                                      \
  X(110, Status*, SessionEndProfiling, (Session*, Allocator*, char** out))                                    \
  X(124, Status*, AddFreeDimensionOverrideByName, (SessionOptions*, const char* name, int64_t value))         \
  X(130, Status*, AddSessionConfigEntry, (SessionOptions*, const char* key, const char* value))               \
  X(131, Status*, CreateAllocator, (const Session*, const MemoryInfo*, Allocator** out))                      \
  X(132, void, ReleaseAllocator, (Allocator*))                                                                \
  X(133, Status*, RunWithBinding, (Session*, const RunOptions*, const IoBinding*))                            \
  X(134, Status*, CreateIoBinding, (Session*, IoBinding** out))                                               \
  X(135, void, ReleaseIoBinding, (IoBinding*))                                                                \
  X(136, Status*, BindInput, (IoBinding*, const char* name, const Value*))                                    \
  X(137, Status*, BindOutput, (IoBinding*, const char* name, const Value*))                                   \
  X(138, Status*, BindOutputToDevice, (IoBinding*, const char* name, const MemoryInfo*))                      \
  X(140, Status*, GetBoundOutputValues, (const IoBinding*, Allocator*, Value*** out, size_t* count))          \
  X(162, Status*, KernelInfoGetAttributeArray_float,                                                          \
    (const KernelInfo*, const char* name, float* out, size_t* size))                                          \
  X(163, Status*, KernelInfoGetAttributeArray_int64,                                                          \
    (const KernelInfo*, const char* name, int64_t* out, size_t* size))                                        \
  X(165, Status*, AddRunConfigEntry, (RunOptions*, const char* key, const char* value))                       \
  X(193, Status*, KernelContext_GetGPUComputeStream, (const KernelContext*, void** out))                      \
  X(204, Status*, SessionOptionsAppendExecutionProvider_CUDA_V2,                                              \
    (SessionOptions*, const CudaProviderOptions*))                                                            \
  X(205, Status*, CreateCUDAProviderOptions, (CudaProviderOptions * *out))                                    \
  X(206, Status*, UpdateCUDAProviderOptions,                                                                  \
    (CudaProviderOptions*, const char* const* keys, const char* const* values, size_t count))                 \
  X(208, void, ReleaseCUDAProviderOptions, (CudaProviderOptions*))                                            \
  X(216, Status*, SessionOptionsAppendExecutionProvider,                                                      \
    (SessionOptions*, const char* name, const char* const* keys, const char* const* values, size_t count))    \
  X(230, Status*, KernelInfo_GetInputCount, (const KernelInfo*, size_t* out))                                 \
  X(232, Status*, KernelInfo_GetInputName, (const KernelInfo*, size_t index, char* out, size_t* size))        \
  X(249, Status*, KernelInfoGetConstantInput_tensor,                                                          \
    (const KernelInfo*, size_t index, int* isConstant, const Value** out))                                    \
  X(253, Status*, KernelContext_GetAllocator, (const KernelContext*, const MemoryInfo*, Allocator** out))     \
  X(265, Status*, KernelContext_GetResource,                                                                  \
    (const KernelContext*, int version, int resource, void** out))                                            \
  X(274, Status*, KernelContext_ParallelFor,                                                                  \
    (const KernelContext*, void (*run)(void*, size_t), size_t total, size_t batches, void* state))            \
  X(277, Status*, KernelContext_GetScratchBuffer,                                                             \
    (const KernelContext*, const MemoryInfo*, size_t bytes, void** out))                                      \
  X(279, Status*, AddExternalInitializersFromFilesInMemory,                                                   \
    (SessionOptions*, const char* const* names, char* const* buffers, const size_t* sizes, size_t count))

// The functions of one loaded ONNX Runtime.
struct Api {
#define ONNXREWRITE_MEMBER(place, result, name, parameters) result(*name) parameters;
  ONNXREWRITE_ORT_FUNCTIONS(ONNXREWRITE_MEMBER)
#undef ONNXREWRITE_MEMBER

  // `table` is what OrtApiBase::GetApi or a kernel's creation hands out.
  explicit Api(const void* table) {
    const auto* entries = static_cast<void* const*>(table);
#define ONNXREWRITE_ENTRY(place, result, name, parameters) \
  name = reinterpret_cast<result(*) parameters>(entries[place]);
    ONNXREWRITE_ORT_FUNCTIONS(ONNXREWRITE_ENTRY)
#undef ONNXREWRITE_ENTRY
  }
};

// OrtApiBase
struct ApiBase {
  const void* (*GetApi)(uint32_t version);  // null for a version it does not know
  const char* (*GetVersionString)();
};

// OrtCustomOp as of version 18.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void* api, const KernelInfo*);  // unused: see CreateKernelV2
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);  // null: CPU
  ElementType (*GetInputType)(const CustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);  // unused: see KernelComputeV2
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t index);
  MemoryType (*GetInputMemoryType)(const CustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, void* context);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
static_assert(sizeof(CustomOp) == 26 * 8, "OrtCustomOp of version 18 has 26 members of 8 bytes");

}  // namespace onnxrewrite::ort
