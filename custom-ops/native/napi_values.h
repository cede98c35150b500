// JavaScript values through the C API of Node-API, failures as exceptions.
#pragma once

#define NAPI_VERSION 8
#include <node_api.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace onnxrewrite::js {

// A JavaScript exception is already pending; there is nothing to add.
struct Pending {};

inline void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) throw Pending{};
  const napi_extended_error_info* info = nullptr;
  napi_get_last_error_info(env, &info);
  throw std::runtime_error(info && info->error_message ? info->error_message : "Node-API call failed");
}

// Runs a callback's body, turning what it throws into a JavaScript exception.
template <class Body>
napi_value guarded(napi_env env, const Body& body) noexcept {
  try {
    return body();
  } catch (const Pending&) {
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
  }
  return nullptr;
}

template <size_t Count>
struct Arguments {
  napi_value values[Count];
  napi_value self;

  Arguments(napi_env env, napi_callback_info info) {
    size_t count = Count;
    check(env, napi_get_cb_info(env, info, &count, values, &self, nullptr));
  }
  napi_value operator[](size_t n) const { return values[n]; }
};

inline napi_valuetype typeOf(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type;
}

inline std::string toString(napi_env env, napi_value value) {
  size_t size;
  check(env, napi_get_value_string_utf8(env, value, nullptr, 0, &size));
  std::string text(size, '\0');
  check(env, napi_get_value_string_utf8(env, value, text.data(), size + 1, &size));
  return text;
}

inline double toNumber(napi_env env, napi_value value) {
  double number;
  check(env, napi_get_value_double(env, value, &number));
  return number;
}

inline napi_value fromString(napi_env env, const std::string& text) {
  napi_value value;
  check(env, napi_create_string_utf8(env, text.data(), text.size(), &value));
  return value;
}

inline napi_value fromNumber(napi_env env, double number) {
  napi_value value;
  check(env, napi_create_double(env, number, &value));
  return value;
}

inline napi_value element(napi_env env, napi_value array, size_t index) {
  napi_value value;
  check(env, napi_get_element(env, array, static_cast<uint32_t>(index), &value));
  return value;
}

inline size_t length(napi_env env, napi_value array) {
  uint32_t count;
  check(env, napi_get_array_length(env, array, &count));
  return count;
}

inline void setElement(napi_env env, napi_value array, size_t index, napi_value value) {
  check(env, napi_set_element(env, array, static_cast<uint32_t>(index), value));
}

inline napi_value newArray(napi_env env, size_t count) {
  napi_value array;
  check(env, napi_create_array_with_length(env, count, &array));
  return array;
}

inline napi_value newObject(napi_env env, const std::vector<std::pair<const char*, napi_value>>& properties) {
  napi_value object;
  check(env, napi_create_object(env, &object));
  for (const auto& [name, value] : properties) check(env, napi_set_named_property(env, object, name, value));
  return object;
}

// A property that is neither absent, undefined nor null.
inline std::optional<napi_value> property(napi_env env, napi_value object, const char* name) {
  napi_value value;
  check(env, napi_get_named_property(env, object, name, &value));
  const napi_valuetype type = typeOf(env, value);
  if (type == napi_undefined || type == napi_null) return std::nullopt;
  return value;
}

template <class T, class Read>
std::vector<T> toVector(napi_env env, napi_value array, const Read& read) {
  std::vector<T> result(length(env, array));
  for (size_t n = 0; n < result.size(); n++) result[n] = read(element(env, array, n));
  return result;
}

struct Bytes {
  void* data;
  size_t size;
};

// Memory behind a typed array.
inline Bytes bytesOf(napi_env env, napi_value array) {
  napi_typedarray_type type;
  size_t count, offset;
  void* data;
  napi_value buffer;
  check(env, napi_get_typedarray_info(env, array, &type, &count, &data, &buffer, &offset));
  // By napi_typedarray_type; Float16Array, which older headers do not name, comes after these.
  static constexpr size_t kSizes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  const size_t each = static_cast<size_t>(type) < std::size(kSizes) ? kSizes[type] : 2;
  return {data, count * each};
}

// Keeps JavaScript values alive; made and ended on the JavaScript thread.
class References {
 public:
  explicit References(napi_env env) : env_(env) {}
  ~References() {
    for (napi_ref reference : references_) napi_delete_reference(env_, reference);
  }
  References(const References&) = delete;
  References& operator=(const References&) = delete;

  void keep(napi_value value) {
    napi_ref reference;
    check(env_, napi_create_reference(env_, value, 1, &reference));
    references_.push_back(reference);
  }

 private:
  napi_env env_;
  std::vector<napi_ref> references_;
};

}  // namespace onnxrewrite::js
