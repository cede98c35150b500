/**
 * What every WGSL kernel is written with: typed bindings and parameters, and rows of tensors read four
 * columns at a time whatever their element type.
 */

/** Threads of a workgroup unless its kernel says otherwise: the largest number that WebGPU guarantees. */
export const THREADS = 256;

/** Workgroups along x before the grid goes on along y: the largest count that WebGPU guarantees. */
export const GRID_WIDTH = 65535;

/** Element type of a tensor's numbers; float16 is unpacked from 32-bit words, so no device feature is needed. */
export type FloatType = 'float32' | 'float16';

/** Declares one binding under a name, at a slot of group 0. */
export type BindingDeclaration = (name: string, slot: number) => string;

export type ParameterType = 'u32' | 'i32' | 'f32';

/** A compute shader with the names of its parameters and bindings; slot 0 holds the parameters. */
export interface Kernel<Parameter extends string = string, Binding extends string = string> {
  readonly label: string;
  readonly code: string;
  readonly parameters: readonly (readonly [name: Parameter, type: ParameterType])[];
  readonly bindings: readonly Binding[];
}

/** `array<element>` in storage memory. */
export function storage(access: 'read' | 'read_write', element: string): BindingDeclaration {
  return (name, slot) => `@group(0) @binding(${slot}) var<storage, ${access}> ${name}: array<${element}>;`;
}

/** A binding that a kernel has only when `present`. */
export function optional<Name extends string>(
  present: boolean,
  name: Name,
  declaration: BindingDeclaration,
): Readonly<Record<Name, BindingDeclaration>> {
  // The kernel's list of names decides at run time; its type has the name either way.
  return (present ? { [name]: declaration } : {}) as Readonly<Record<Name, BindingDeclaration>>;
}

/** Number of four-column groups of a row. */
export const quads = (columns: number): number => Math.ceil(columns / 4);

/**
 * A row-major tensor of `columns` columns, with `read_NAME(row, quad) -> vec4<f32>` for columns 4 quad to
 * 4 quad + 3 of a row; columns past the end read as zero.
 */
export function tensorRows(type: FloatType, columns: number): BindingDeclaration {
  const aligned = columns % 4 === 0;
  if (type === 'float32' && aligned) {
    return (name, slot) => `${storage('read', 'vec4<f32>')(name, slot)}
fn read_${name}(row: u32, quad: u32) -> vec4<f32> { return ${name}[row * ${columns / 4}u + quad]; }`;
  }
  if (aligned) {
    return (name, slot) => `${storage('read', 'vec2<u32>')(name, slot)}
fn read_${name}(row: u32, quad: u32) -> vec4<f32> {
  let words = ${name}[row * ${columns / 4}u + quad];
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}`;
  }
  const element = (name: string) =>
    type === 'float32' ? `${name}[at]` : `unpack2x16float(${name}[at / 2u])[at % 2u]`;
  return (name, slot) => `${storage('read', type === 'float32' ? 'f32' : 'u32')(name, slot)}
fn read_${name}(row: u32, quad: u32) -> vec4<f32> {
  var columns = vec4<f32>();
  for (var i = 0u; i < 4u; i++) {
    let at = row * ${columns}u + quad * 4u + i;
    if (quad * 4u + i < ${columns}u) { columns[i] = ${element(name)}; }
  }
  return columns;
}`;
}

/** Numbers one by one, with `read_NAME(index) -> f32`. */
export function tensorElements(type: FloatType): BindingDeclaration {
  const element = (name: string) =>
    type === 'float32' ? `${name}[index]` : `unpack2x16float(${name}[index / 2u])[index % 2u]`;
  return (name, slot) => `${storage('read', type === 'float32' ? 'f32' : 'u32')(name, slot)}
fn read_${name}(index: u32) -> f32 { return ${element(name)}; }`;
}

/** Booleans, one byte each, with `read_NAME(index) -> bool`. */
export const booleans: BindingDeclaration = (name, slot) => `${storage('read', 'u32')(name, slot)}
fn read_${name}(index: u32) -> bool { return extractBits(${name}[index / 4u], 8u * (index % 4u), 8u) != 0u; }`;

/**
 * Builds a kernel. `body` is the code of one workgroup: `group` is its number below
 * the dispatched count (uniform), `thread` the thread's number; parameters are read as `params.NAME`.
 */
export function kernel<
  const Parameters extends Readonly<Record<string, ParameterType>>,
  const Bindings extends Readonly<Record<string, BindingDeclaration>>,
>(source: {
  readonly label: string;
  /** Threads of a workgroup, {@link THREADS} unless given. */
  readonly threads?: number;
  readonly parameters: Parameters;
  readonly bindings: Bindings;
  readonly declarations?: string;
  readonly body: string;
}): Kernel<keyof Parameters & string, keyof Bindings & string> {
  const parameters = Object.entries(source.parameters);
  const declared = Object.entries(source.bindings).map(([name, declare], index) => declare(name, index + 1));
  const code = `struct Parameters {
  groups: u32,
${parameters.map(([name, type]) => `  ${name}: ${type},`).join('\n')}
}
@group(0) @binding(0) var<uniform> params: Parameters;
${declared.join('\n')}
${source.declarations ?? ''}
@compute @workgroup_size(${source.threads ?? THREADS})
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = workgroup.x + workgroup.y * ${GRID_WIDTH}u;
  if (group >= params.groups) { return; }
${source.body}
}
`;
  return { label: source.label, code, parameters, bindings: Object.keys(source.bindings) };
}

/**
 * Kernels of one template: the same object for equal arguments, so that a kernel's source is put together, and
 * its pipeline compiled, only once.
 */
export function variants<Arguments extends readonly unknown[], Built extends Kernel>(
  build: (...given: Arguments) => Built,
): (...given: Arguments) => Built {
  const built = new Map<string, Built>();
  return (...given) => {
    const name = JSON.stringify(given);
    let known = built.get(name);
    if (!known) {
      known = build(...given);
      built.set(name, known);
    }
    return known;
  };
}
