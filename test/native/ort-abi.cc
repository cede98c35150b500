// Compiles only if ort_abi.h agrees with ONNX Runtime's own header.
#include <onnxruntime_c_api.h>

#include "../../custom-ops/native/ort_abi.h"

namespace ort = onnxrewrite::ort;

#define CHECK(place, result, name, parameters) \
  static_assert(offsetof(OrtApi, name) == (place) * sizeof(void*), #name " is elsewhere");
ONNXREWRITE_ORT_FUNCTIONS(CHECK)

#define SAME_MEMBER(name) static_assert(offsetof(OrtCustomOp, name) == offsetof(ort::CustomOp, name), #name);
SAME_MEMBER(version)
SAME_MEMBER(CreateKernel)
SAME_MEMBER(GetName)
SAME_MEMBER(GetExecutionProviderType)
SAME_MEMBER(GetInputType)
SAME_MEMBER(GetInputTypeCount)
SAME_MEMBER(GetOutputType)
SAME_MEMBER(GetOutputTypeCount)
SAME_MEMBER(KernelCompute)
SAME_MEMBER(KernelDestroy)
SAME_MEMBER(GetInputCharacteristic)
SAME_MEMBER(GetOutputCharacteristic)
SAME_MEMBER(GetInputMemoryType)
SAME_MEMBER(GetVariadicInputMinArity)
SAME_MEMBER(GetVariadicInputHomogeneity)
SAME_MEMBER(GetVariadicOutputMinArity)
SAME_MEMBER(GetVariadicOutputHomogeneity)
SAME_MEMBER(CreateKernelV2)
SAME_MEMBER(KernelComputeV2)
SAME_MEMBER(InferOutputShapeFn)
SAME_MEMBER(GetStartVersion)
SAME_MEMBER(GetEndVersion)
SAME_MEMBER(GetMayInplace)
SAME_MEMBER(ReleaseMayInplace)
SAME_MEMBER(GetAliasMap)
SAME_MEMBER(ReleaseAliasMap)
static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ort::ApiBase, GetApi));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(ort::ApiBase, GetVersionString));
static_assert(ORT_API_VERSION >= ort::kApiVersion);

#define SAME_VALUE(theirs, ours) static_assert(static_cast<int>(theirs) == static_cast<int>(ours), #ours);
SAME_VALUE(ORT_FAIL, ort::kFail)
SAME_VALUE(ORT_INVALID_ARGUMENT, ort::kInvalidArgument)
SAME_VALUE(ORT_NOT_IMPLEMENTED, ort::kNotImplemented)
SAME_VALUE(ONNX_TYPE_UNKNOWN, ort::kTypeUnknown)
SAME_VALUE(ONNX_TYPE_TENSOR, ort::kTypeTensor)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ort::kFloat)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, ort::kString)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, ort::kBool)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ort::kFloat16)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, ort::kInt32)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, ort::kUint64)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, ort::kBfloat16)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4, ort::kUint4)
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4, ort::kInt4)
SAME_VALUE(OrtArenaAllocator, ort::kArenaAllocator)
SAME_VALUE(OrtMemTypeDefault, ort::kMemoryDefault)
SAME_VALUE(INPUT_OUTPUT_REQUIRED, ort::kRequired)
SAME_VALUE(INPUT_OUTPUT_OPTIONAL, ort::kOptional)
