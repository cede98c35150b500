import type { RuntimeDescription } from '../../rewriter/validation.js';

const OPERATORS = {
  'function-body': 'custom operators by their function bodies',
  'native-kernels': 'custom operators by native kernels',
  mixed: 'custom operators by native kernels and function bodies',
} as const;

/** For people, one line for each operator that has no kernel where kernels were asked for. */
export function describeFallbacks({ without_kernel }: RuntimeDescription): string[] {
  return without_kernel.map(({ operator, reason }) => `${operator} runs by its function body: ${reason}`);
}

/** For people: `onnxruntime-node 1.30.0, CPU, custom operators by their function bodies`. */
export function describeRuntime(runtime: RuntimeDescription): string {
  const { name, version, execution_provider, custom_operators } = runtime;
  const operators = custom_operators === null ? '' : `, ${OPERATORS[custom_operators]}`;
  return `${name} ${version}, ${execution_provider}${operators}`;
}
