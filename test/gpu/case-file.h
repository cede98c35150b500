// Reads and writes the files of test/custom-ops/case-file.ts.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace onnxrewrite::test {

struct Tensor {
  /** TensorProto.DataType */
  uint32_t type = 0;
  std::vector<int64_t> dims;
  std::vector<uint8_t> data;
};

struct Attribute {
  std::vector<int64_t> ints;
  std::vector<double> floats;
  std::string text;
};

struct CaseRecord {
  std::string name;
  std::map<std::string, Attribute> attributes;
  std::map<std::string, Tensor> tensors;
};

class CaseReader {
 public:
  explicit CaseReader(const std::string& path) : file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) throw std::runtime_error("cannot read " + path);
    char magic[4];
    bytes(magic, 4);
    if (std::memcmp(magic, "ORWC", 4) || number<uint32_t>() != 1) throw std::runtime_error(path + " is no case file");
    remaining_ = number<uint32_t>();
  }
  CaseReader(const CaseReader&) = delete;
  ~CaseReader() { std::fclose(file_); }

  bool next(CaseRecord& record) {
    if (remaining_ == 0) return false;
    remaining_--;
    record = {};
    record.name = string();
    for (uint32_t n = number<uint32_t>(); n > 0; n--) {
      std::string name = string();
      Attribute& attribute = record.attributes[name];
      const uint32_t kind = number<uint32_t>();
      for (uint32_t count = number<uint32_t>(); count > 0; count--) {
        if (kind == 0) attribute.ints.push_back(number<int64_t>());
        if (kind == 1) attribute.floats.push_back(number<double>());
        if (kind == 2) attribute.text = string();
      }
    }
    for (uint32_t n = number<uint32_t>(); n > 0; n--) {
      std::string name = string();
      Tensor& tensor = record.tensors[name];
      tensor.type = number<uint32_t>();
      tensor.dims.resize(number<uint32_t>());
      for (int64_t& dim : tensor.dims) dim = number<int64_t>();
      tensor.data.resize(number<uint64_t>());
      bytes(tensor.data.data(), tensor.data.size());
    }
    return true;
  }

 private:
  template <class V>
  V number() {
    V value;
    bytes(&value, sizeof value);
    return value;
  }
  std::string string() {
    std::string text(number<uint32_t>(), 0);
    bytes(text.data(), text.size());
    return text;
  }
  void bytes(void* target, size_t count) {
    if (count && std::fread(target, 1, count, file_) != count) throw std::runtime_error("the case file ends early");
  }

  std::FILE* file_;
  uint32_t remaining_;
};

/** Writes cases without attributes. */
class CaseWriter {
 public:
  explicit CaseWriter(const std::string& path) : file_(std::fopen(path.c_str(), "wb")) {
    if (!file_) throw std::runtime_error("cannot write " + path);
    bytes("ORWC", 4);
    number<uint32_t>(1);
    number<uint32_t>(0);
  }
  CaseWriter(const CaseWriter&) = delete;
  ~CaseWriter() {
    std::fseek(file_, 8, SEEK_SET);
    number(cases_);
    std::fclose(file_);
  }

  void add(const CaseRecord& record) {
    cases_++;
    string(record.name);
    number<uint32_t>(0);
    number(static_cast<uint32_t>(record.tensors.size()));
    for (const auto& [name, tensor] : record.tensors) {
      string(name);
      number(tensor.type);
      number(static_cast<uint32_t>(tensor.dims.size()));
      for (int64_t dim : tensor.dims) number(dim);
      number(static_cast<uint64_t>(tensor.data.size()));
      bytes(tensor.data.data(), tensor.data.size());
    }
  }

 private:
  template <class V>
  void number(V value) {
    bytes(&value, sizeof value);
  }
  void string(const std::string& text) {
    number(static_cast<uint32_t>(text.size()));
    bytes(text.data(), text.size());
  }
  void bytes(const void* data, size_t count) {
    if (count && std::fwrite(data, 1, count, file_) != count) throw std::runtime_error("cannot write results");
  }

  std::FILE* file_;
  uint32_t cases_ = 0;
};

}  // namespace onnxrewrite::test
