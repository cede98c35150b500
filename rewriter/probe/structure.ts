import type { Constants } from '../graph/constants.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { AttributeInfo, TensorInfo } from '../onnx/model-info.js';
import { type Laboratory, PLAIN } from './laboratory.js';
import { followsElements } from './rules/index.js';
import { sizeOf } from './sample.js';

/** Constants up to this many elements are told apart by content, longer ones by where they are stored. */
const MOST_ELEMENTS = 64;

/**
 * Tells whether two values are computed in the same way from the same inputs: then their names are equal. A
 * tensor that only lends its shape counts as its sizes in the trials. Layers repeat masks; what is found out
 * about one mask holds for its copies.
 */
export class Structure {
  private readonly names = new Map<Value, string>();
  private readonly numbers = new Map<string, string>();

  constructor(
    private readonly laboratory: Laboratory,
    private readonly constants: Constants,
  ) {}

  ofValue(root: Value): string {
    // Producers first, with a stack of its own: graphs are deeper than the call stack.
    const stack = [root];
    const entered = new Set<Value>();
    for (let value = stack.at(-1); value !== undefined; value = stack.at(-1)) {
      if (this.names.has(value)) {
        stack.pop();
        continue;
      }
      const inputs = this.inputsThatCount(value).filter(input => !this.names.has(input));
      if (entered.has(value) || inputs.length === 0) {
        stack.pop();
        this.names.set(value, this.intern(this.describe(value)));
        continue;
      }
      entered.add(value);
      stack.push(...inputs);
    }
    return this.names.get(root)!;
  }

  /** The shape of a value, as its sizes in the trials. */
  ofShape(value: Value): string {
    const shapes = this.laboratory.trials.map(trial => trial.probe(PLAIN).tryToSample(value)?.dims.join(','));
    return shapes.includes(undefined) ? `shape of ${this.intern(value)}` : `[${shapes.join('][')}]`;
  }

  /** A node by operator, attributes and what `nameOf` makes of its inputs. */
  ofNode(node: Node, nameOf: (input: Value) => string): string {
    const attributes = [...node.info.attributes.values()]
      .map(attribute => this.ofAttribute(attribute))
      .sort();
    const inputs = node.inputs.map(input => (input === null ? '' : nameOf(input)));
    return `${node.type}{${attributes.join(';')}}(${inputs.join(',')})`;
  }

  private describe(value: Value): string | Value {
    const { producer, initializer } = value;
    if (initializer !== null) return this.ofTensor(initializer);
    if (producer === null || producer.subgraphs.size > 0) return value;
    if (lendsShape(producer)) return this.ofNode(producer, input => this.ofShape(input));
    if (!followsElements(producer)) return value;
    return `${this.ofNode(producer, input => this.names.get(input) ?? '')}:${value.slot}`;
  }

  private inputsThatCount(value: Value): readonly Value[] {
    const { producer } = value;
    if (producer === null || producer.subgraphs.size > 0 || !followsElements(producer)) return [];
    return producer.inputs.filter(input => input !== null);
  }

  private ofAttribute(attribute: AttributeInfo): string {
    const { name, type } = attribute;
    if (type === 'tensor') return `${name}=${this.ofTensor(attribute.value)}`;
    const plain = ['int', 'float', 'string', 'ints', 'floats', 'strings'].includes(type);
    return `${name}=${plain ? JSON.stringify(attribute.value) : attribute.range.start}`;
  }

  private ofTensor(tensor: TensorInfo): string {
    const constant = sizeOf(tensor.dims) <= MOST_ELEMENTS ? this.constants.tensor(tensor) : null;
    if (constant === null) return `tensor@${tensor.range.start}`;
    return `${constant.dataType}[${constant.dims.join(',')}]${Array.from(constant.data).join(',')}`;
  }

  /** A short name for a description, or for a value that is like no other. */
  private intern(description: string | Value): string {
    const key = typeof description === 'string' ? description : `value ${this.serial(description)}`;
    let number = this.numbers.get(key);
    if (number === undefined) {
      number = `#${this.numbers.size}`;
      this.numbers.set(key, number);
    }
    return number;
  }

  private readonly serials = new Map<Value, number>();

  private serial(value: Value): number {
    let serial = this.serials.get(value);
    if (serial === undefined) {
      serial = this.serials.size;
      this.serials.set(value, serial);
    }
    return serial;
  }
}

function lendsShape({ type }: Node): boolean {
  return type === 'Shape' || type === 'Size';
}
