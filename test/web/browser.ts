import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { dirname, extname, join, normalize } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';

const CHROMIUM = '/usr/bin/chromium';

/** Why tests in a browser are skipped, or null. */
export const NO_BROWSER = existsSync(CHROMIUM) ? null : `no ${CHROMIUM}: install the package chromium`;

const COMMON = [
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Headless Chromium, with its software GPU or without any WebGPU adapter. */
export function openBrowser({ webgpu }: { readonly webgpu: boolean }): Promise<Browser> {
  const gpu = webgpu ? ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'] : [];
  return chromium.launch({ executablePath: CHROMIUM, headless: true, args: [...COMMON, ...gpu] });
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/** A web server for one test: files of folders, and what is in memory, by path. */
export class TestServer {
  private constructor(
    private readonly server: Server,
    readonly address: string,
  ) {}

  /**
   * @param folders folder by path prefix, which ends in a slash
   * @param memory bytes or text by path
   */
  static async start(
    folders: Readonly<Record<string, string>>,
    memory: Readonly<Record<string, Uint8Array | string>> = {},
  ): Promise<TestServer> {
    const server = createServer(async (request, response) => {
      const path = decodeURIComponent(new URL(request.url!, 'http://localhost').pathname);
      const content = memory[path] ?? (await readFrom(folders, path));
      const type = path.endsWith('/') ? 'text/html' : (TYPES[extname(path)] ?? 'application/octet-stream');
      if (content === null) response.writeHead(404).end();
      else response.writeHead(200, { 'content-type': type }).end(content);
    });
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    return new TestServer(server, `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise(resolve => this.server.close(resolve));
  }
}

async function readFrom(folders: Readonly<Record<string, string>>, path: string): Promise<Uint8Array | null> {
  const prefix = Object.keys(folders).find(candidate => path.startsWith(candidate));
  if (prefix === undefined) return null;
  const file = normalize(join(folders[prefix]!, path.slice(prefix.length)));
  return readFile(file).catch(() => null);
}

/** Folder of onnxruntime-web's bundles. */
export const ONNXRUNTIME_WEB = dirname(createRequire(import.meta.url).resolve('onnxruntime-web'));

/** Writes what goes wrong in a page to the terminal. */
export function showErrors(page: Page): void {
  page.on('pageerror', error => console.error(`      page: ${error.message}`));
  page.on('console', message => {
    if (message.type() === 'error') console.error(`      page: ${message.text()}`);
  });
}
