import type { NameAuthority } from './graph/names.js';
import { type AttributeSpec, DataType, type NodeSpec, type TensorSpec } from './onnx/spec.js';
import type { Move } from './site.js';

/** Collects nodes, naming them and their outputs. */
export class AddedNodes {
  readonly list: NodeSpec[] = [];

  constructor(
    private readonly names: NameAuthority,
    private readonly prefix: string,
  ) {}

  freshValue(role: string): string {
    return this.names.fresh(`${this.prefix}/${role}`);
  }

  /** Adds a node with one output; returns its name. */
  add(
    opType: string,
    role: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeSpec>> = {},
    output = this.freshValue(role),
  ): string {
    this.push(role, { opType, inputs, outputs: [output], attributes });
    return output;
  }

  /** Adds a node of any domain, with any number of outputs. */
  push(role: string, node: Omit<NodeSpec, 'name'>): void {
    this.list.push({ ...node, name: this.names.fresh(`${this.prefix}/${role}/${node.opType}`) });
  }

  /** Nodes for a subgraph of one of these. */
  within(role: string): AddedNodes {
    return new AddedNodes(this.names, `${this.prefix}/${role}`);
  }

  /** Adds the moves of a value; returns the name of the last one's result, `output` where given. */
  moved(value: string, role: string, moves: readonly Move[], output?: string): string {
    return moves.reduce((moved, move, i) => {
      const last = i === moves.length - 1;
      return this.move(moved, last ? role : `${role}_${i}`, move, last ? output : undefined);
    }, value);
  }

  private move(value: string, role: string, move: Move, output?: string): string {
    if ('transpose' in move) return this.transpose(value, role, move.transpose, output);
    if ('reshape' in move) return this.reshape(value, role, move.reshape, output);
    if ('pick' in move) return this.gather(value, role, 1, move.pick, output);
    const data = new Uint8Array(Float32Array.from(move.scale).buffer);
    const factors = { dataType: DataType.FLOAT, dims: [move.scale.length, 1], data };
    return this.add('Mul', role, [value, this.constant(`${role}_factors`, factors)], {}, output);
  }

  /** Zeros in float32 of the sizes that a value has along these axes. */
  zeros(value: string, role: string, axes: readonly number[]): string {
    const sizes = this.gather(this.add('Shape', `${role}_shape`, [value]), `${role}_sizes`, 0, axes);
    return this.add('ConstantOfShape', role, [sizes]);
  }

  private gather(
    value: string,
    role: string,
    axis: number,
    places: readonly number[],
    output?: string,
  ): string {
    const inputs = [value, this.integers(`${role}_places`, places)];
    return this.add('Gather', role, inputs, { axis: { type: 'int', value: axis } }, output);
  }

  constant(role: string, value: TensorSpec): string {
    return this.add('Constant', role, [], { value: { type: 'tensor', value } });
  }

  integers(role: string, values: readonly number[]): string {
    return this.constant(role, { ...int64(values), dims: [values.length] });
  }

  /** A scalar. */
  integer(role: string, value: number): string {
    return this.constant(role, { ...int64([value]), dims: [] });
  }

  reshape(value: string, role: string, shape: readonly number[], output?: string): string {
    return this.add('Reshape', role, [value, this.integers(`${role}_shape`, shape)], {}, output);
  }

  slice(value: string, role: string, axis: number, [start, end]: readonly [number, number]): string {
    const bounds = [start, end, axis].map((bound, i) =>
      this.integers(`${role}_${['start', 'end', 'axis'][i]}`, [bound]),
    );
    return this.add('Slice', role, [value, ...bounds]);
  }

  transpose(value: string, role: string, perm: readonly number[], output?: string): string {
    return this.add('Transpose', role, [value], { perm: { type: 'ints', value: perm } }, output);
  }
}

function int64(values: readonly number[]) {
  const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
  return { dataType: DataType.INT64, data } as const;
}
