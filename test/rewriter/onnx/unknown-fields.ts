import { MemorySource } from '../../../rewriter/onnx/byte-source.js';
import { concatenate, type Pieces } from '../../../rewriter/onnx/bytes.js';
import { field } from '../../../rewriter/onnx/encode.js';
import {
  AttributeField,
  FunctionField,
  GraphField,
  ModelField,
  NodeField,
  SparseTensorField,
} from '../../../rewriter/onnx/field-numbers.js';
import type { ByteRange } from '../../../rewriter/onnx/model-info.js';
import { fields, WireType } from '../../../rewriter/onnx/wire.js';

/** A number that no field of ONNX has. */
const UNKNOWN = 7777;

/** Messages of ONNX: which fields hold which messages. */
interface Schema {
  readonly [number: number]: () => Schema;
}
const leaf = (): Schema => ({});
const graph = (): Schema => GRAPH;
const tensor = leaf;
const sparseTensor = (): Schema => ({
  [SparseTensorField.values]: tensor,
  [SparseTensorField.indices]: tensor,
});
const attribute = (): Schema => ({
  [AttributeField.t]: tensor,
  [AttributeField.tensors]: tensor,
  [AttributeField.g]: graph,
  [AttributeField.graphs]: graph,
  [AttributeField.sparseTensor]: sparseTensor,
});
const node = (): Schema => ({ [NodeField.attribute]: attribute, [NodeField.metadataProps]: leaf });
const GRAPH: Schema = {
  [GraphField.node]: node,
  [GraphField.initializer]: tensor,
  [GraphField.sparseInitializer]: sparseTensor,
  [GraphField.input]: leaf,
  [GraphField.output]: leaf,
  [GraphField.valueInfo]: leaf,
};
const MODEL: Schema = {
  [ModelField.graph]: graph,
  [ModelField.opsetImport]: leaf,
  [ModelField.metadataProps]: leaf,
  [ModelField.functions]: () => ({ [FunctionField.node]: node, [FunctionField.opsetImport]: leaf }),
};

/** The model with an unknown field, each of its own content, at the end of every message in it. */
export function addUnknownFields(bytes: Uint8Array): {
  readonly model: Uint8Array;
  readonly labels: readonly string[];
} {
  const source = new MemorySource(bytes);
  const labels: string[] = [];
  const rebuild = (range: ByteRange, schema: Schema): Pieces => {
    const label = `unknown ${labels.length} `;
    labels.push(label);
    const known = [...fields(source, range)].flatMap(part => {
      const inner = part.wireType === WireType.bytes ? schema[part.number] : undefined;
      return inner
        ? field(part.number, rebuild({ start: part.body, end: part.end }, inner()))
        : [bytes.subarray(part.start, part.end)];
    });
    return [...known, ...field(UNKNOWN, [new TextEncoder().encode(label)])];
  };
  return { model: concatenate(rebuild({ start: 0, end: bytes.length }, MODEL)), labels };
}

/** Which of the unknown fields are still there. */
export function unknownFieldsIn(bytes: Uint8Array, labels: readonly string[]): string[] {
  const text = Buffer.from(bytes);
  return labels.filter(label => text.includes(label));
}
