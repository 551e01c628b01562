/**
 * The only importer of `@kubernetes/client-node`. Loaded with `await import()`, so that an agent without an API server
 * pays neither its 90 MB nor its start-up. Names are taken one by one: the bare package defeats tree shaking.
 */
export {
  ApiException,
  CoordinationV1Api,
  CoreV1Api,
  CustomObjectsApi,
  EventsV1Api,
  KubeConfig,
  ListWatch,
  Observable,
  PatchStrategy,
  setHeaderOptions,
  V1MicroTime,
  Watch,
} from '@kubernetes/client-node';
