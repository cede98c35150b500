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
    const name = this.names.fresh(`${this.prefix}/${role}/${opType}`);
    this.list.push({ opType, name, inputs, outputs: [output], attributes });
    return output;
  }

  /** Adds the moves of a value; returns the name of the last one's result, `output` where given. */
  moved(value: string, role: string, moves: readonly Move[], output?: string): string {
    return moves.reduce((moved, move, i) => {
      const last = i === moves.length - 1;
      const step = last ? role : `${role}_${i}`;
      return 'transpose' in move
        ? this.transpose(moved, step, move.transpose, last ? output : undefined)
        : this.reshape(moved, step, move.reshape, last ? output : undefined);
    }, value);
  }

  constant(role: string, value: TensorSpec): string {
    return this.add('Constant', role, [], { value: { type: 'tensor', value } });
  }

  integers(role: string, values: readonly number[]): string {
    const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
    return this.constant(role, { dataType: DataType.INT64, dims: [values.length], data });
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
