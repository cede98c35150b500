import { MemorySource } from '../../../rewriter/onnx/byte-source.js';
import { FileSource } from '../../../rewriter/onnx/byte-source-file.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import type { ModelInfo, NodeInfo } from '../../../rewriter/onnx/model-info.js';
import { DOMAIN } from '../../operator.js';
import type { NativeOperator } from './binding.js';

/** What computes one node of our domain, and why. */
export interface NodePlacement {
  /** Name of the node, or of its first output where it has none. */
  readonly node: string;
  readonly operator: string;
  readonly executedBy: 'native-kernel' | 'function-body';
  /** Why not natively; null where it is. */
  readonly reason: string | null;
}

/** A node of our domain, wherever it stands. */
export interface CustomNode {
  readonly node: string;
  readonly operator: string;
}

/**
 * The nodes of our domain in a model: main graph, subgraphs and functions. Reads neither weights nor external
 * data.
 * @throws InputError when the model cannot be read
 */
export function customNodes(model: string | Uint8Array): CustomNode[] {
  if (typeof model !== 'string') return nodesOf(decodeModel(new MemorySource(model)));
  const source = new FileSource(model);
  try {
    return nodesOf(decodeModel(source, { file: model }));
  } finally {
    source.close();
  }
}

function nodesOf(model: ModelInfo): CustomNode[] {
  if (!model.opsetImports.has(DOMAIN)) return [];
  const found: CustomNode[] = [];
  const visit = (nodes: readonly NodeInfo[]) => {
    for (const node of nodes) {
      if (node.domain === DOMAIN) {
        found.push({ node: node.name || (node.outputs[0] ?? ''), operator: node.opType });
      }
      for (const attribute of node.attributes.values()) {
        if (attribute.type === 'graph') visit(attribute.value.nodes);
        else if (attribute.type === 'graphs') for (const graph of attribute.value) visit(graph.nodes);
      }
    }
  };
  visit(model.graph.nodes);
  for (const body of model.functions) visit(body.nodes);
  return found;
}

/** ONNX Runtime's names of the execution providers that kernels exist for, by onnxruntime-node's names. */
const KERNEL_PROVIDERS: Readonly<Record<string, string>> = {
  cpu: 'CPUExecutionProvider',
  cuda: 'CUDAExecutionProvider',
};

/**
 * Chooses the kernels to register. A registered operator hides its function body for good, so one without a
 * kernel for the session's first execution provider stays unregistered: its body then runs there.
 * @param provider onnxruntime-node's name of that provider
 */
export function chooseKernels(
  nodes: readonly CustomNode[],
  available: readonly NativeOperator[],
  provider: string,
): { readonly kernels: readonly NativeOperator[]; readonly refusals: ReadonlyMap<string, string> } {
  const wanted = KERNEL_PROVIDERS[provider];
  const kernels: NativeOperator[] = [];
  const refusals = new Map<string, string>();
  for (const operator of new Set(nodes.map(node => node.operator))) {
    const named = available.filter(({ name }) => name === operator);
    if (named.some(({ executionProvider }) => executionProvider === wanted)) {
      kernels.push(
        ...named.filter(({ executionProvider }) =>
          [wanted, KERNEL_PROVIDERS.cpu].includes(executionProvider),
        ),
      );
    } else {
      const any = available.some(({ executionProvider }) => executionProvider === wanted);
      refusals.set(
        operator,
        provider === 'cuda' && !any
          ? 'the native build has no CUDA kernels; `npm run build:cuda` in the package makes them'
          : `no ${provider} kernel in the native build`,
      );
    }
  }
  return { kernels, refusals };
}

/** The report: `refusals` says, by operator, why a function body runs. */
export function placementsOf(
  nodes: readonly CustomNode[],
  refusals: ReadonlyMap<string, string>,
): NodePlacement[] {
  return nodes.map(({ node, operator }) => {
    const reason = refusals.get(operator) ?? null;
    return { node, operator, executedBy: reason === null ? 'native-kernel' : 'function-body', reason };
  });
}
