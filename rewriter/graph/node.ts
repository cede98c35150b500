import type { AttributeInfo, NodeInfo, TensorInfo } from '../onnx/model-info.js';
import type { Graph } from './graph.js';
import type { Value } from './value.js';

/** A node together with its place in the graph. Null inputs and outputs are absent optional ones. */
export class Node {
  readonly inputs: (Value | null)[] = [];
  readonly outputs: (Value | null)[] = [];
  /** Bodies of If, Loop, Scan and the like, by attribute name. */
  readonly subgraphs = new Map<string, Graph>();
  /** Operator with its domain: `MatMul`, `com.microsoft::Gelu`. */
  readonly type: string;

  constructor(
    readonly info: NodeInfo,
    readonly graph: Graph,
  ) {
    this.type = info.domain === '' ? info.opType : `${info.domain}::${info.opType}`;
  }

  get name(): string {
    return this.info.name;
  }

  /** How messages call the node: by name, or by its first output where it has none. */
  get label(): string {
    const output = this.info.outputs.find(name => name !== '');
    const what = this.name !== '' ? `'${this.name}'` : output === undefined ? '' : `producing '${output}'`;
    return `${this.type} ${what}`.trim();
  }

  /** Version of the operator set that this node's domain is imported at; 1 where the model imports none. */
  get opset(): number {
    return this.graph.opsets.get(this.info.domain) ?? 1;
  }

  int(name: string, fallback: number): number {
    return this.attribute(name, 'int')?.value ?? fallback;
  }

  float(name: string, fallback: number): number {
    return this.attribute(name, 'float')?.value ?? fallback;
  }

  text(name: string, fallback: string): string {
    return this.attribute(name, 'string')?.value ?? fallback;
  }

  ints(name: string): readonly number[] | null {
    return this.attribute(name, 'ints')?.value ?? null;
  }

  floats(name: string): readonly number[] | null {
    return this.attribute(name, 'floats')?.value ?? null;
  }

  tensor(name: string): TensorInfo | null {
    return this.attribute(name, 'tensor')?.value ?? null;
  }

  /** Whether an attribute is the caller's, as in function bodies: its value is not known here. */
  get takesAttributes(): boolean {
    return [...this.info.attributes.values()].some(({ type }) => type === 'reference');
  }

  has(name: string): boolean {
    return this.info.attributes.has(name);
  }

  private attribute<T extends AttributeInfo['type']>(
    name: string,
    type: T,
  ): Extract<AttributeInfo, { type: T }> | null {
    const attribute = this.info.attributes.get(name);
    return attribute?.type === type ? (attribute as Extract<AttributeInfo, { type: T }>) : null;
  }
}
