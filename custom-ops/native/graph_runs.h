// Runs of a session whose CUDA provider captures them as CUDA graphs (`enable_cuda_graph`).
//
// ONNX Runtime replays a graph by a number alone: on the thread that captured it, with the shapes and at the addresses of
// that time, without a look at what the run is given. So there is a graph, and tensors of its own for inputs and
// outputs, for each set of shapes; inputs are copied in, outputs out, and all of it happens on one thread.
#pragma once

#include <map>

#include "device_tensors.h"
#include "own_thread.h"

namespace onnxrewrite {

struct RunInput {
  const char* name;
  SharedValue value;
};

struct RunOutput {
  const char* name;
  // Where it is to stay on a GPU: which one.
  std::optional<int> device;
  // Memory of the caller's.
  SharedValue given;
  SharedValue made;
};

class GraphRuns {
 public:
  GraphRuns(ort::Session* session, int device) : session_(session), device_(device) {}

  // The first run of a set of shapes captures nothing: it may stay the only one. The second one does. Throws what ONNX
  // Runtime or CUDA refuses; a set of shapes whose first run failed is not remembered.
  void run(const std::vector<RunInput>& inputs, std::vector<RunOutput>& outputs, ort::RunOptions* options) {
    thread_.call([&] {
      const std::string shapes = describe(inputs, outputs);
      const auto found = shapes_.find(shapes);
      if (found != shapes_.end()) return repeat(found->second, inputs, outputs, options);
      Shapes made = runOnce(inputs, outputs, options);
      if (shapes_.size() < kMostShapes) shapes_.emplace(shapes, std::move(made));
    });
  }

 private:
  // Graphs cannot be given up before the session: what comes after so many sets of shapes runs without.
  static constexpr size_t kMostShapes = 16;
  // ONNX Runtime reads sizes and positions on the host, which makes them part of a graph: tensors of one dimension at
  // most, and few elements.
  static constexpr size_t kMostHostElements = 16;
  // Of a run that is not to be captured.
  static constexpr int kNoGraph = -1;

  struct Shapes {
    int graph;
    BindingOwner binding;
    std::vector<SharedValue> inputs, outputs;
  };

  static const ort::Api& api() { return OrtRuntime::get().api; }

  // What a graph is made for: runs of equal descriptions may share one.
  static std::string describe(const std::vector<RunInput>& inputs, const std::vector<RunOutput>& outputs) {
    std::string text;
    const auto append = [&](const void* data, size_t bytes) { text.append(static_cast<const char*>(data), bytes); };
    for (const auto& [name, value] : inputs) {
      const TensorType type = typeOf(value.get());
      const size_t rank = type.dims.size();
      text.append(name) += '\0';
      append(&type.element, sizeof type.element);
      append(&rank, sizeof rank);
      append(type.dims.data(), rank * sizeof type.dims[0]);
      if (rank <= 1 && countOf(type.dims) <= kMostHostElements) {
        std::string data(type.bytes(), '\0');
        copyTensor(data.data(), dataOf(value.get()), data.size());
        text += data;
      }
    }
    for (const RunOutput& output : outputs) text.append(output.name) += '\0';
    return text;
  }

  void runBound(const ort::IoBinding* binding, int graph, ort::RunOptions* options) const {
    ort::check(api(), api().AddRunConfigEntry(options, "gpu_graph_id", std::to_string(graph).c_str()));
    ort::check(api(), api().RunWithBinding(session_, options, binding));
  }

  Shapes runOnce(const std::vector<RunInput>& inputs, std::vector<RunOutput>& outputs, ort::RunOptions* options) const {
    // 0 stands for runs that name no graph.
    Shapes shapes{static_cast<int>(shapes_.size()) + 1, newBinding(session_), {}, {}};
    for (const auto& [name, value] : inputs) {
      shapes.inputs.push_back(deviceTensor(device_, typeOf(value.get())));
      ort::check(api(), api().BindInput(shapes.binding.get(), name, shapes.inputs.back().get()));
    }
    const BindingOwner first = newBinding(session_);
    for (size_t n = 0; n < inputs.size(); n++) {
      ort::check(api(), api().BindInput(first.get(), inputs[n].name, shapes.inputs[n].get()));
    }
    for (const RunOutput& output : outputs) {
      ort::check(api(), api().BindOutputToDevice(first.get(), output.name, cudaMemory(device_).get()));
    }
    copyInputs(inputs, shapes);
    runBound(first.get(), kNoGraph, options);
    for (const SharedValue& value : boundOutputs(first.get())) {
      shapes.outputs.push_back(deviceTensor(device_, typeOf(value.get())));
      copyTensor(dataOf(shapes.outputs.back().get()), dataOf(value.get()), typeOf(value.get()).bytes());
    }
    for (size_t n = 0; n < outputs.size(); n++) {
      ort::check(api(), api().BindOutput(shapes.binding.get(), outputs[n].name, shapes.outputs[n].get()));
    }
    copyOutputs(shapes, outputs);
    return shapes;
  }

  void repeat(const Shapes& shapes, const std::vector<RunInput>& inputs, std::vector<RunOutput>& outputs,
              ort::RunOptions* options) const {
    copyInputs(inputs, shapes);
    runBound(shapes.binding.get(), shapes.graph, options);
    copyOutputs(shapes, outputs);
  }

  static void copyInputs(const std::vector<RunInput>& inputs, const Shapes& shapes) {
    for (size_t n = 0; n < inputs.size(); n++) {
      copyTensor(dataOf(shapes.inputs[n].get()), dataOf(inputs[n].value.get()), typeOf(inputs[n].value.get()).bytes());
    }
  }

  void copyOutputs(const Shapes& shapes, std::vector<RunOutput>& outputs) const {
    for (size_t n = 0; n < outputs.size(); n++) {
      const SharedValue& from = shapes.outputs[n];
      const TensorType type = typeOf(from.get());
      RunOutput& to = outputs[n];
      if (to.given && !(typeOf(to.given.get()) == type)) {
        throw std::runtime_error(std::string("the tensor given for output \"") + to.name + "\" does not fit");
      }
      if (!to.given) to.made = to.device ? deviceTensor(*to.device, type) : hostTensor(type);
      copyTensor(dataOf(to.given ? to.given.get() : to.made.get()), dataOf(from.get()), type.bytes());
    }
  }

  ort::Session* const session_;
  const int device_;
  std::map<std::string, Shapes> shapes_;
  // Ends first: it uses the rest.
  OwnThread thread_;
};

}  // namespace onnxrewrite
