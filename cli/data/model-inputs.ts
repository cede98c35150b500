import { InputError } from '../../rewriter/errors.js';
import type { ModelInfo, NodeInfo } from '../../rewriter/onnx/model-info.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { type ElementType, elementTypeOf } from './tensor.js';

/** What a model wants to be fed: one of its graph inputs that no initializer provides. */
export interface ModelInput {
  readonly name: string;
  readonly type: ElementType;
  /** Number, symbol, or null where unknown. */
  readonly dims: readonly (number | string | null)[];
  /** Rows of the embedding table that the input indexes; null when it indexes none. */
  readonly vocabulary: number | null;
}

/**
 * The inputs of a model in graph order.
 * @throws InputError for an input that is no tensor, has an unknown rank, or an element type without a
 *   JavaScript form (bfloat16, strings, 4-bit and 8-bit floats)
 */
export function modelInputs(model: ModelInfo): ModelInput[] {
  const initialized = new Set(model.graph.initializers.map(tensor => tensor.name));
  return model.graph.inputs
    .filter(input => !initialized.has(input.name))
    .map(input => {
      const type = elementTypeOf(input.dataType);
      if (input.kind !== 'tensor' || type === null || input.dims === null) {
        throw new InputError(
          `${model.file ?? 'model'}: input "${input.name}" cannot be fed: ${
            input.kind !== 'tensor'
              ? `it is a ${input.kind}`
              : type === null
                ? `its elements are ${DataType[input.dataType] ?? 'of an unknown type'}`
                : 'its rank is unknown'
          }`,
          { remedy: 'Use --no-validate to rewrite without running the model.' },
        );
      }
      return { name: input.name, type, dims: input.dims, vocabulary: vocabularyOf(model, input.name) };
    });
}

/** Operators that hand on the elements of their first input. */
const PASSES_ON = new Set(['Cast', 'Flatten', 'Identity', 'Reshape', 'Squeeze', 'Unsqueeze']);

/** Follows `input` to the tables that it indexes; the smallest of them limits the ids. */
function vocabularyOf(model: ModelInfo, input: string): number | null {
  const { nodes, initializers } = model.graph;
  const producers = new Map(nodes.flatMap(node => node.outputs.map(output => [output, node] as const)));
  const tables = new Map(initializers.map(tensor => [tensor.name, tensor]));
  const tableRows = (value: string): number | null => {
    const table = tables.get(value);
    if (table) return table.dims[0] ?? null;
    const producer = producers.get(value);
    // Weights may be stored in another type, or quantized, behind these.
    const converts = producer && ['Cast', 'Identity', 'DequantizeLinear'].includes(producer.opType);
    return converts && producer.inputs[0] ? tableRows(producer.inputs[0]) : null;
  };
  const carriers = new Set([input]);
  let smallest: number | null = null;
  for (const node of nodes) {
    if (PASSES_ON.has(node.opType) && carriers.has(node.inputs[0] ?? '')) {
      for (const output of node.outputs) carriers.add(output);
    }
    const table = indexedTable(node, carriers);
    const rows = table === null ? null : tableRows(table);
    if (rows !== null) smallest = Math.min(smallest ?? rows, rows);
  }
  return smallest;
}

/** The value that `node` looks up rows of, when one of `indices` selects the rows. */
function indexedTable(node: NodeInfo, indices: ReadonlySet<string>): string | null {
  if (node.opType === 'Gather' && indices.has(node.inputs[1] ?? '')) return node.inputs[0] ?? null;
  if (node.opType === 'EmbedLayerNormalization' && indices.has(node.inputs[0] ?? ''))
    return node.inputs[2] ?? null;
  return null;
}
