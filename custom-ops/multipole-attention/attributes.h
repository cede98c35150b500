// Reading the attributes of a MultipoleAttention node; operator.ts validates them when a node is made, this
// checks what a kernel relies on.
#pragma once

#include "../native/kernel.h"
#include "parameters.h"

namespace onnxrewrite::multipole {

constexpr const char* kOpType = "MultipoleAttention";

[[noreturn]] inline void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

template <class T>
T oneOf(const NodeAttributes& attributes, const char* name, T absent,
        std::initializer_list<std::pair<const char*, T>> values) {
  const std::optional<std::string> text = attributes.text(name);
  if (!text) return absent;
  for (const auto& [known, value] : values) {
    if (*text == known) return value;
  }
  refuse(std::string("unknown ") + name + " \"" + *text + "\"");
}

inline Parameters readParameters(const NodeAttributes& attributes) {
  const auto integer = [&](const char* name, int64_t absent, int64_t least) {
    const int64_t value = attributes.integer(name).value_or(absent);
    if (value < least) refuse(std::string(name) + " is " + std::to_string(value) + ", below " + std::to_string(least));
    return value;
  };
  Parameters p;
  p.scale = attributes.real("scale");
  p.causal = integer("causal", p.causal, 0) != 0;
  p.causalOffset = attributes.integer("causal_offset");
  p.exactBelow = integer("exact_below", p.exactBelow, 0);
  p.exactBelowRows = integer("exact_below_rows", p.exactBelowRows, 0);
  p.segment = integer("segment", p.segment, p.causal ? 1 : 0);
  p.window = integer("window", p.window, 0);
  p.keyClusters = integer("key_clusters", p.keyClusters, 1);
  p.keyGrouping = oneOf(attributes, "key_grouping", p.keyGrouping,
                        {{"kmeans", KeyGrouping::kmeans}, {"contiguous", KeyGrouping::contiguous}});
  p.queryClusters = integer("query_clusters", p.queryClusters, 1);
  p.iterations = integer("iterations", p.iterations, 1);
  p.order = static_cast<int>(integer("order", p.order, 0));
  p.contracted = integer("contracted", p.contracted, 0) != 0;
  p.retrieve = attributes.integers("retrieve").value_or(p.retrieve);
  p.retrieveMass = attributes.real("retrieve_mass").value_or(p.retrieveMass);
  // Whoever asks for one way to choose clusters does not mean the other.
  p.retrieveError = attributes.real("retrieve_error").value_or(p.retrieveMass > 0 ? 0.f : p.retrieveError);
  p.selection =
      oneOf(attributes, "selection", p.causal ? Selection::sliding : p.selection,
            {{"tile", Selection::tile}, {"sliding", Selection::sliding}, {"cluster", Selection::cluster}});
  p.group = integer("group", p.causal ? 16 : p.group, 1);
  p.dyadic = oneOf(attributes, "hierarchy", p.dyadic, {{"flat", false}, {"dyadic", true}});
  if (p.retrieve.empty()) refuse("retrieve is empty");
  if (p.retrieveMass > 0 && p.retrieveError > 0) refuse("retrieve_mass and retrieve_error exclude each other");
  if (p.contracted && (p.order == 0 || p.segment != 0 || p.retrieve != std::vector<int64_t>{0} || p.retrieveMass > 0)) {
    refuse("contracted needs order 1, segment 0 and retrieve 0");
  }
  return p;
}

}  // namespace onnxrewrite::multipole
