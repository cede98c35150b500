import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import { axisOf, coordinates, indexOf, type Sample, sizeOf, UnknownSample } from '../sample.js';
import type { Rules } from './rule.js';

/** Operators that make tensors out of shapes and numbers. */

function constant(inputs: NodeInputs): readonly Sample[] {
  const { node, probe } = inputs;
  const tensor = node.tensor('value');
  if (tensor !== null) {
    // The elements are read when one is asked for: a constant may be a weight.
    const read = () => {
      const found = probe.constants.tensor(tensor);
      if (found === null) throw new UnknownSample(`${node.label} cannot be read as numbers`);
      return found.data;
    };
    return [{ dims: tensor.dims, dataType: tensor.dataType, at: index => read()[index]! }];
  }
  const found = probe.constants.ofNode(node);
  if (found === null) throw new UnknownSample(`${node.label} holds no numbers`);
  return [{ dims: found.dims, dataType: found.dataType, at: index => found.data[index]! }];
}

function integerList(values: readonly number[]): Sample {
  return { dims: [values.length], dataType: DataType.INT64, at: index => values[index]! };
}

function shape(inputs: NodeInputs): readonly Sample[] {
  const { dims } = inputs.sample(0);
  const end = inputs.node.int('end', dims.length);
  return [integerList(dims.slice(inputs.node.int('start', 0), end))];
}

function size(inputs: NodeInputs): readonly Sample[] {
  const count = sizeOf(inputs.sample(0).dims);
  return [{ dims: [], dataType: DataType.INT64, at: () => count }];
}

function constantOfShape(inputs: NodeInputs): readonly Sample[] {
  const dims = inputs.integers(0) ?? [];
  const tensor = inputs.node.tensor('value');
  const value = tensor === null ? 0 : (inputs.probe.constants.tensor(tensor)?.data[0] ?? 0);
  return [{ dims, dataType: tensor?.dataType ?? DataType.FLOAT, at: () => value }];
}

function range(inputs: NodeInputs): readonly Sample[] {
  const start = inputs.sample(0);
  const first = start.at(0);
  const step = inputs.sample(2).at(0);
  const count = Math.max(0, Math.ceil((inputs.sample(1).at(0) - first) / step));
  if (!Number.isFinite(count)) throw new UnknownSample(`${inputs.node.label} has no end`);
  return [{ dims: [count], dataType: start.dataType, at: index => first + index * step }];
}

function eyeLike(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const columns = x.dims[1] ?? 0;
  const diagonal = inputs.node.int('k', 0);
  const dataType = inputs.node.int('dtype', x.dataType);
  return [
    { dims: x.dims, dataType, at: i => ((i % columns) - Math.floor(i / columns) === diagonal ? 1 : 0) },
  ];
}

function oneHot(inputs: NodeInputs): readonly Sample[] {
  const indices = inputs.sample(0);
  const depth = inputs.sample(1).at(0);
  const values = inputs.sample(2);
  const axis = axisOf(inputs.node.int('axis', -1), indices.dims.length + 1);
  const dims = [...indices.dims.slice(0, axis), depth, ...indices.dims.slice(axis)];
  const at = (index: number) => {
    const position = coordinates(index, dims);
    const [hot] = position.splice(axis, 1);
    const wanted = indices.at(indexOf(position, indices.dims));
    return values.at((wanted < 0 ? wanted + depth : wanted) === hot ? 1 : 0);
  };
  return [{ dims, dataType: values.dataType, at }];
}

export const generators: Rules = {
  Constant: constant,
  Shape: shape,
  Size: size,
  ConstantOfShape: constantOfShape,
  Range: range,
  EyeLike: eyeLike,
  OneHot: oneHot,
};
