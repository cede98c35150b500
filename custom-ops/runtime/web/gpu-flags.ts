/** GPUBufferUsage of the WebGPU standard, which TypeScript's DOM library leaves out. */
export const BufferUsage = {
  MAP_READ: 0x1,
  COPY_SRC: 0x4,
  COPY_DST: 0x8,
  UNIFORM: 0x40,
  STORAGE: 0x80,
  QUERY_RESOLVE: 0x200,
} as const;

/** GPUMapMode of the WebGPU standard. */
export const MapMode = { READ: 0x1 } as const;
