import { type AttributeSpec, DataType, type GraphSpec, type NodeSpec } from '../rewriter/onnx/spec.js';

/** A value of a graph under construction. */
export interface Value {
  readonly name: string;
  readonly type: DataType;
}

/** A dimension or index: a number, or an int64 value of one element. */
export type Dim = number | Value;
/** An operand of arithmetic; a number takes the type of the other operand. */
export type Operand = number | Value;

type Attributes = Readonly<Record<string, AttributeSpec>>;

/** What all builders of one function share: fresh names, and constants, which live in the outermost graph. */
class Scope {
  readonly constants = new Map<string, Value>();
  #names = 0;

  constructor(
    readonly opset: number,
    readonly nodes: NodeSpec[],
  ) {}

  fresh(hint: string): string {
    return `${hint.toLowerCase()}_${this.#names++}`;
  }
}

const OPSET_WITH_CAST_LIKE = 15;

/** The oldest opset that has the operators used here. */
export const OLDEST_OPSET = 11;

/**
 * Writes ONNX nodes in topological order with fresh names: each method appends one node, or the few that it
 * takes in the given opset, and returns the output. Subgraphs of Loop and If may use any value made before.
 */
export class GraphBuilder {
  readonly nodes: NodeSpec[];
  readonly #scope: Scope;

  /** @param opset version of the default domain under which the nodes will run, at least {@link OLDEST_OPSET} */
  constructor(opset: number | Scope) {
    this.nodes = [];
    this.#scope = typeof opset === 'number' ? new Scope(opset, this.nodes) : opset;
  }

  get #opset(): number {
    return this.#scope.opset;
  }

  /** A node with one output of the given type. */
  node(opType: string, inputs: readonly Value[], type: DataType, attributes: Attributes = {}): Value {
    return this.nodeWithOutputs(opType, inputs, [type], attributes)[0]!;
  }

  nodeWithOutputs(
    opType: string,
    inputs: readonly Value[],
    types: readonly DataType[],
    attributes: Attributes = {},
  ): Value[] {
    const outputs = types.map(type => ({ name: this.#scope.fresh(opType), type }));
    this.nodes.push({
      opType,
      inputs: inputs.map(({ name }) => name),
      outputs: outputs.map(({ name }) => name),
      attributes,
    });
    return outputs;
  }

  /** Gives `value` a name from outside: an output of the function. */
  output(value: Value, name: string): void {
    this.nodes.push({ opType: 'Identity', inputs: [value.name], outputs: [name] });
  }

  // Constants

  /** An int64 vector. */
  ints(values: readonly number[]): Value {
    return this.#constant(DataType.INT64, [values.length], new BigInt64Array(values.map(BigInt)));
  }

  /** A constant of any numeric type used here; a number gives a scalar. */
  constant(values: number | readonly number[], type: DataType): Value {
    const list = typeof values === 'number' ? [values] : values;
    const dims = typeof values === 'number' ? [] : [values.length];
    switch (type) {
      case DataType.FLOAT:
        return this.#constant(type, dims, Float32Array.from(list));
      case DataType.INT64:
        return this.#constant(type, dims, new BigInt64Array(list.map(BigInt)));
      case DataType.BOOL:
        return this.#constant(type, dims, Uint8Array.from(list));
      default:
        throw new RangeError(`no constants of type ${DataType[type]}`);
    }
  }

  #constant(dataType: DataType, dims: readonly number[], values: ArrayBufferView): Value {
    const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const key = `${dataType} ${dims.join()} ${data.join()}`;
    const known = this.#scope.constants.get(key);
    if (known) return known;
    const value = { name: this.#scope.fresh('constant'), type: dataType };
    this.#scope.nodes.push({
      opType: 'Constant',
      inputs: [],
      outputs: [value.name],
      attributes: { value: { type: 'tensor', value: { dataType, dims, data } } },
    });
    this.#scope.constants.set(key, value);
    return value;
  }

  #operands(a: Operand, b: Operand): [Value, Value] {
    if (typeof a !== 'number') return [a, typeof b === 'number' ? this.constant(b, a.type) : b];
    if (typeof b !== 'number') return [this.constant(a, b.type), b];
    throw new RangeError('arithmetic on two numbers belongs into the program');
  }

  /** An int64 vector of dimensions. */
  dims(dims: readonly Dim[]): Value {
    if (dims.every(dim => typeof dim === 'number')) return this.ints(dims);
    const parts: Value[] = [];
    let known: number[] = [];
    for (const dim of [...dims, null]) {
      if (typeof dim === 'number') {
        known.push(dim);
        continue;
      }
      if (known.length > 0) parts.push(this.ints(known));
      known = [];
      if (dim) parts.push(dim);
    }
    return parts.length === 1 ? parts[0]! : this.concat(parts, 0);
  }

  // Elementwise

  #binary(opType: string, a: Operand, b: Operand, type?: DataType): Value {
    const [left, right] = this.#operands(a, b);
    return this.node(opType, [left, right], type ?? left.type);
  }

  add(a: Operand, b: Operand): Value {
    return this.#binary('Add', a, b);
  }

  sub(a: Operand, b: Operand): Value {
    return this.#binary('Sub', a, b);
  }

  /** Of non-negative integers. */
  mod(a: Operand, b: Operand): Value {
    return this.#binary('Mod', a, b);
  }

  mul(a: Operand, b: Operand): Value {
    return this.#binary('Mul', a, b);
  }

  /** On integers it truncates towards zero. */
  div(a: Operand, b: Operand): Value {
    return this.#binary('Div', a, b);
  }

  max(a: Operand, b: Operand): Value {
    return this.#extreme('Max', a, b);
  }

  min(a: Operand, b: Operand): Value {
    return this.#extreme('Min', a, b);
  }

  #extreme(opType: 'Max' | 'Min', a: Operand, b: Operand): Value {
    const [left, right] = this.#operands(a, b);
    if (this.#opset >= 12 || left.type === DataType.FLOAT) return this.node(opType, [left, right], left.type);
    const first = opType === 'Max' ? this.greater(left, right) : this.less(left, right);
    return this.where(first, left, right);
  }

  /** Of non-negative integers, in three nodes. */
  ceilDiv(a: Value, b: Operand): Value {
    return this.div(this.sub(this.add(a, b), 1), b);
  }

  less(a: Operand, b: Operand): Value {
    return this.#binary('Less', a, b, DataType.BOOL);
  }

  lessOrEqual(a: Operand, b: Operand): Value {
    if (this.#opset >= 12) return this.#binary('LessOrEqual', a, b, DataType.BOOL);
    return this.not(this.greater(a, b));
  }

  greater(a: Operand, b: Operand): Value {
    return this.#binary('Greater', a, b, DataType.BOOL);
  }

  equal(a: Operand, b: Operand): Value {
    return this.#binary('Equal', a, b, DataType.BOOL);
  }

  not(a: Value): Value {
    return this.node('Not', [a], DataType.BOOL);
  }

  and(a: Value, b: Value): Value {
    return this.node('And', [a, b], DataType.BOOL);
  }

  or(a: Value, b: Value): Value {
    return this.node('Or', [a, b], DataType.BOOL);
  }

  where(condition: Value, a: Operand, b: Operand): Value {
    const [left, right] = this.#operands(a, b);
    return this.node('Where', [condition, left, right], left.type);
  }

  exp(x: Value): Value {
    return this.node('Exp', [x], x.type);
  }

  log(x: Value): Value {
    return this.node('Log', [x], x.type);
  }

  abs(x: Value): Value {
    return this.node('Abs', [x], x.type);
  }

  sqrt(x: Value): Value {
    return this.node('Sqrt', [x], x.type);
  }

  sigmoid(x: Value): Value {
    return this.node('Sigmoid', [x], x.type);
  }

  identity(x: Value): Value {
    return this.node('Identity', [x], x.type);
  }

  cast(x: Value, type: DataType): Value {
    return x.type === type ? x : this.node('Cast', [x], type, { to: { type: 'int', value: type } });
  }

  /**
   * x in the type of an input whose type is the node's: by CastLike where there is such an operator, which leaves
   * the body right for every type, else as `type`.
   */
  castLike(x: Value, input: Value, type: DataType): Value {
    if (this.#opset < OPSET_WITH_CAST_LIKE) return this.cast(x, type);
    return this.node('CastLike', [x, input], DataType.UNDEFINED);
  }

  /** 1 where true, 0 where false. */
  indicator(condition: Value): Value {
    return this.cast(condition, DataType.FLOAT);
  }

  // Products and reductions

  matMul(a: Value, b: Value): Value {
    return this.node('MatMul', [a, b], a.type);
  }

  /** Softmax over the last axis. */
  softmax(x: Value): Value {
    return this.node('Softmax', [x], x.type, { axis: { type: 'int', value: -1 } });
  }

  #reduce(opType: string, since: number, x: Value, axes: readonly number[]): Value {
    return this.#withAxes(opType, since, x, axes, { keepdims: { type: 'int', value: 1 } });
  }

  /** A node whose axes are an input from opset `since` on, and an attribute before. */
  #withAxes(opType: string, since: number, x: Value, axes: readonly number[], attributes: Attributes): Value {
    if (this.#opset >= since) return this.node(opType, [x, this.ints(axes)], x.type, attributes);
    return this.node(opType, [x], x.type, { ...attributes, axes: { type: 'ints', value: axes } });
  }

  /** How many elements of the last axis are true: an int64 without that axis. */
  countTrue(x: Value): Value {
    const attributes: Attributes = { keepdims: { type: 'int', value: 0 } };
    return this.#withAxes('ReduceSum', 13, this.cast(x, DataType.INT64), [-1], attributes);
  }

  /** Reductions keep the reduced axes, with size 1. */
  reduceMax(x: Value, ...axes: number[]): Value {
    return this.#reduce('ReduceMax', 18, x, axes);
  }

  reduceMin(x: Value, ...axes: number[]): Value {
    return this.#reduce('ReduceMin', 18, x, axes);
  }

  reduceSum(x: Value, ...axes: number[]): Value {
    return this.#reduce('ReduceSum', 13, x, axes);
  }

  /** Of all elements, as a vector of one. */
  maxOfAll(x: Value): Value {
    return this.reshape(this.node('ReduceMax', [x], x.type, { keepdims: { type: 'int', value: 0 } }), [1]);
  }

  /** Index of the least element of the last axis, the lowest one among equals; keeps the axis. */
  argMin(x: Value): Value {
    return this.node('ArgMin', [x], DataType.INT64, { axis: { type: 'int', value: -1 } });
  }

  cumSum(x: Value, axis: number): Value {
    return this.node('CumSum', [x, this.constant(axis, DataType.INT64)], x.type);
  }

  /** The k largest (or least) of the last axis, lower indices first among equals; in order unless not sorted. */
  topK(
    x: Value,
    k: Dim,
    { largest = true, sorted = true }: { readonly largest?: boolean; readonly sorted?: boolean } = {},
  ): { values: Value; indices: Value } {
    const [values, indices] = this.nodeWithOutputs('TopK', [x, this.dims([k])], [x.type, DataType.INT64], {
      largest: { type: 'int', value: Number(largest) },
      sorted: { type: 'int', value: Number(sorted) },
    });
    return { values: values!, indices: indices! };
  }

  // Shape and data movement

  /** Size of one axis, as a vector of one. */
  dim(x: Value, axis: number): Value {
    return this.gather(this.node('Shape', [x], DataType.INT64), this.ints([axis]));
  }

  /**
   * `dims`: or the vector that {@link dims} made of them before. At most one dimension is -1; none may turn out
   * 0, which old opsets take for another meaning.
   */
  reshape(x: Value, dims: readonly Dim[] | Value): Value {
    return this.node('Reshape', [x, 'name' in dims ? dims : this.dims(dims)], x.type);
  }

  transpose(x: Value, perm: readonly number[]): Value {
    return this.node('Transpose', [x], x.type, { perm: { type: 'ints', value: perm } });
  }

  unsqueeze(x: Value, ...axes: number[]): Value {
    return this.#withAxes('Unsqueeze', 13, x, axes, {});
  }

  squeeze(x: Value, ...axes: number[]): Value {
    return this.#withAxes('Squeeze', 13, x, axes, {});
  }

  concat(values: readonly Value[], axis: number): Value {
    return this.node('Concat', values, values[0]!.type, { axis: { type: 'int', value: axis } });
  }

  /** Elements [start, end) of one axis. */
  slice(x: Value, axis: number, start: Dim, end: Dim): Value {
    return this.node('Slice', [x, this.dims([start]), this.dims([end]), this.ints([axis])], x.type);
  }

  gather(x: Value, indices: Value, axis = 0): Value {
    return this.node('Gather', [x, indices], x.type, { axis: { type: 'int', value: axis } });
  }

  /** Along the last axis. */
  gatherElements(x: Value, indices: Value): Value {
    return this.node('GatherElements', [x, indices], x.type, { axis: { type: 'int', value: -1 } });
  }

  /** Along the last axis. */
  scatterElements(x: Value, indices: Value, updates: Value): Value {
    return this.node('ScatterElements', [x, indices, updates], x.type, { axis: { type: 'int', value: -1 } });
  }

  expand(x: Value, dims: readonly Dim[]): Value {
    return this.node('Expand', [x, this.dims(dims)], x.type);
  }

  full(dims: readonly Dim[], value: number, type: DataType): Value {
    return this.expand(this.constant(value, type), dims);
  }

  /** Adds `before` and `after` elements (negative ones crop) to one axis of a tensor of the given rank. */
  pad(x: Value, rank: number, axis: number, before: Dim, after: Dim, value = 0): Value {
    const zeros = (count: number) => Array.from({ length: count }, () => 0);
    const between = zeros(rank - 1);
    const pads = this.dims([...zeros(axis), before, ...between, after, ...zeros(rank - axis - 1)]);
    return this.node('Pad', [x, pads, this.constant(value, x.type)], x.type);
  }

  /** 0, 1, ... n-1. */
  range(n: Dim): Value {
    if (typeof n === 'number') return this.ints(Array.from({ length: n }, (_, i) => i));
    const zero = this.constant(0, DataType.INT64);
    const end = this.reshape(n, []);
    return this.node('Range', [zero, end, this.constant(1, DataType.INT64)], DataType.INT64);
  }

  // Control flow

  /** Values that may be outputs of this graph: made by a node of its own, each listed once. */
  #ownOutputs(values: readonly Value[]): Value[] {
    const free = new Set(this.nodes.flatMap(({ outputs }) => outputs));
    return values.map(value => (free.delete(value.name) ? value : this.identity(value)));
  }

  /**
   * `trips` times: `body` gets the iteration (a vector of one), the state, and the iteration as a scalar, which
   * as an index drops the axis; it returns the next state and what to stack along a new first axis.
   */
  loop(
    trips: Value,
    state: readonly Value[],
    body: (
      inner: GraphBuilder,
      iteration: Value,
      state: readonly Value[],
      index: Value,
    ) => { readonly state: readonly Value[]; readonly stacked: readonly Value[] },
  ): { state: readonly Value[]; stacked: readonly Value[] } {
    const inner = new GraphBuilder(this.#scope);
    const iteration = { name: this.#scope.fresh('iteration'), type: DataType.INT64 };
    const condition = { name: this.#scope.fresh('condition'), type: DataType.BOOL };
    const carried = state.map(({ type }) => ({ name: this.#scope.fresh('state'), type }));
    const result = body(inner, inner.reshape(iteration, [1]), carried, iteration);
    const outputs = inner.#ownOutputs([condition, ...result.state, ...result.stacked]);
    const graph: GraphSpec = {
      name: this.#scope.fresh('body'),
      nodes: inner.nodes,
      inputs: [
        { ...specOf(iteration), dims: [] },
        { ...specOf(condition), dims: [] },
        ...carried.map(specOf),
      ],
      outputs: outputs.map(specOf),
    };
    const values = this.nodeWithOutputs(
      'Loop',
      [this.reshape(trips, []), this.constant(1, DataType.BOOL), ...state],
      outputs.slice(1).map(({ type }) => type),
      { body: { type: 'graph', value: graph } },
    );
    return { state: values.slice(0, state.length), stacked: values.slice(state.length) };
  }

  /** One of two subgraphs, by a boolean of one element. */
  ifElse(
    condition: Value,
    then: (inner: GraphBuilder) => readonly Value[],
    otherwise: (inner: GraphBuilder) => readonly Value[],
  ): Value[] {
    const branch = (build: (inner: GraphBuilder) => readonly Value[]): GraphSpec => {
      const inner = new GraphBuilder(this.#scope);
      const outputs = inner.#ownOutputs(build(inner));
      return {
        name: this.#scope.fresh('branch'),
        nodes: inner.nodes,
        inputs: [],
        outputs: outputs.map(specOf),
      };
    };
    const [thenBranch, elseBranch] = [branch(then), branch(otherwise)];
    return this.nodeWithOutputs(
      'If',
      [this.reshape(condition, [])],
      thenBranch.outputs.map(({ dataType }) => dataType),
      {
        then_branch: { type: 'graph', value: thenBranch },
        else_branch: { type: 'graph', value: elseBranch },
      },
    );
  }
}

function specOf(value: Value): { name: string; dataType: DataType } {
  return { name: value.name, dataType: value.type };
}
