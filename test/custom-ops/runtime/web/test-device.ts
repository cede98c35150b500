import { existsSync } from 'node:fs';
import { openDevice } from '../../../../custom-ops/runtime/web/node.js';

/** Chromium's software GPU as a Vulkan driver. */
const SWIFTSHADER = '/usr/lib/chromium/vk_swiftshader_icd.json';

/**
 * The GPU for tests of kernels: the software GPU when there is one, so that results do not depend on the machine,
 * else what Vulkan finds; null without any. `limits` as in {@link openDevice}: the defaults of WebGPU when empty.
 */
export async function testDevice(limits: Readonly<Record<string, number>> = {}): Promise<GPUDevice | null> {
  if (existsSync(SWIFTSHADER)) process.env.VK_ICD_FILENAMES = SWIFTSHADER;
  // The Vulkan loader complains when this is not set.
  process.env.XDG_RUNTIME_DIR ??= '/tmp';
  return openDevice([], limits);
}

/** Why a test of kernels is skipped. */
export const NO_DEVICE =
  'no WebGPU adapter in Node: needs libvulkan1 and a Vulkan driver, for instance the one of the package chromium';
