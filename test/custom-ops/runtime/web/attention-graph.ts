import { multipoleFunctionBody } from '../../../../custom-ops/multipole-attention/function-body.js';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
} from '../../../../custom-ops/multipole-attention/parameters.js';
import { DOMAIN, DOMAIN_VERSION } from '../../../../custom-ops/operator.js';
import { buildModel } from '../../../../rewriter/onnx/encode.js';
import {
  type AttributeSpec,
  DataType,
  type GraphSpec,
  type NodeSpec,
} from '../../../../rewriter/onnx/spec.js';
import { node } from '../../../rewriter/onnx/builders.js';

const OPSET = 18;
/** Of nodes with one output, and with two. */
const OVERLOADS = ['', 'lse'] as const;

/** Exact attention, for tests of what goes on around it. */
export const EXACT: MultipoleParameters = { ...defaultParameters(false), retrieve: [-1] };

/** Small, with a far field at a few dozen tokens. */
export const MULTIPOLE: MultipoleParameters = {
  ...defaultParameters(false),
  segment: 8,
  window: 0,
  keyClusters: 2,
  queryClusters: 4,
  retrieve: [2],
  group: 8,
};

const FLOATS: ReadonlySet<string> = new Set(['retrieve_mass', 'retrieve_error']);

/** A node of MultipoleAttention. */
export function attention(
  inputs: readonly string[],
  outputs: readonly string[],
  parameters = EXACT,
): NodeSpec {
  const attributes = Object.entries(attributesOf(parameters)).map(
    ([name, value]): [string, AttributeSpec] => {
      if (typeof value === 'string') return [name, { type: 'string', value }];
      if (typeof value !== 'number') return [name, { type: 'ints', value }];
      return [name, { type: FLOATS.has(name) ? 'float' : 'int', value }];
    },
  );
  return {
    ...node('MultipoleAttention', inputs, outputs, Object.fromEntries(attributes)),
    domain: DOMAIN,
    overload: OVERLOADS[outputs.length - 1]!,
  };
}

/** A model of such nodes and others, with the function bodies that make it run anywhere. */
export function attentionModel(graph: GraphSpec, parameters = EXACT): Uint8Array<ArrayBuffer> {
  const inputs = ['query', 'key', 'value'];
  const context = { opset: OPSET, elementType: DataType.FLOAT };
  return buildModel({
    irVersion: 10,
    opsetImports: { '': OPSET, [DOMAIN]: DOMAIN_VERSION },
    graph,
    functions: [inputs, [...inputs, 'lse']].map((connected, n) => ({
      ...multipoleFunctionBody(parameters, connected, context),
      overload: OVERLOADS[n]!,
    })),
  });
}

/** A float32 value of shape [batch, heads, tokens, 4]. */
export const heads = (name: string) =>
  ({ name, dataType: DataType.FLOAT, dims: ['batch', 2, 'tokens', 4] }) as const;
