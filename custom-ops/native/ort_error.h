// ONNX Runtime statuses as exceptions, and back.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#include "ort_abi.h"

namespace onnxrewrite::ort {

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  const ErrorCode code;
};

// Throws the message of a status that is not null.
inline void check(const Api& api, Status* status) {
  if (!status) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Error(kFail, message);
}

// Runs `body`, turning what it throws into a status.
template <class Body>
Status* guarded(const Api& api, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return api.CreateStatus(error.code, error.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(kFail, error.what());
  }
}

}  // namespace onnxrewrite::ort
