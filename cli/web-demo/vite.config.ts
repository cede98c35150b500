import { defineConfig } from 'vite';

/** Relative addresses, so that the built page works from any folder of any static server. */
export default defineConfig({
  root: import.meta.dirname,
  base: './',
  server: { fs: { allow: ['../..'] } },
  build: { outDir: '../../dist-web-demo', emptyOutDir: true, target: 'es2022' },
  worker: { format: 'es' },
});
