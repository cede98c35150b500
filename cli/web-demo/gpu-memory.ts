/** Bytes of all GPU buffers that this page or worker has made and not destroyed, from {@link watch} on. */
export class GpuMemory {
  #live = 0;
  #most = 0;

  static watch(): GpuMemory {
    const memory = new GpuMemory();
    if (!('GPUDevice' in globalThis)) return memory;
    const { createBuffer } = GPUDevice.prototype;
    GPUDevice.prototype.createBuffer = function (descriptor) {
      const buffer = createBuffer.call(this, descriptor);
      const destroy = buffer.destroy.bind(buffer);
      let counted = descriptor.size;
      memory.#add(counted);
      buffer.destroy = () => {
        memory.#add(-counted);
        counted = 0;
        destroy();
      };
      return buffer;
    };
    return memory;
  }

  get live(): number {
    return this.#live;
  }

  /** The most there were at a time since the last call. */
  takeMost(): number {
    const most = this.#most;
    this.#most = this.#live;
    return most;
  }

  #add(bytes: number): void {
    this.#live += bytes;
    this.#most = Math.max(this.#most, this.#live);
  }
}
