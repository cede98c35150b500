/** Execution providers to choose from, and how documents call them. */
export const PROVIDERS = { cpu: 'CPU', cuda: 'CUDA', webgpu: 'WebGPU' } as const;

export type Provider = keyof typeof PROVIDERS;
