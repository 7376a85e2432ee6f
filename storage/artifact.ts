/**
 * What else than container images lies in registries, told by the type of its config, of itself or of its first layer.
 * Source: the media types that these projects register or document.
 */
const KNOWN: readonly (readonly [RegExp, string])[] = [
  [/^application\/vnd\.cncf\.helm\./, 'a Helm chart'],
  [/^application\/(?:vnd\.wasm\.|vnd\.module\.wasm\.|wasm$)/, 'a WebAssembly module'],
  [/^application\/vnd\.(?:dev\.cosign\.simplesigning|dev\.sigstore\.bundle)/, 'a signature made by cosign'],
  [/^application\/vnd\.cncf\.notary\./, 'a signature of the Notary project'],
  [/^application\/vnd\.(?:in-toto|dsse\.envelope)|^application\/vnd\.dsse/, 'an attestation'],
  [/^application\/(?:spdx\+json|vnd\.cyclonedx|vnd\.syft|vnd\.goharbor\.harbor\.sbom)|^text\/spdx/, 'a bill of materials (SBOM)'],
  [/^application\/vnd\.docker\.plugin\./, 'a plugin of the Docker Engine'],
  [/^application\/vnd\.sylabs\.sif\./, 'a Singularity image'],
  [/^application\/vnd\.cncf\.(?:openpolicyagent|conftest)\./, 'a bundle of policies'],
  [/^application\/vnd\.cncf\.flux\./, 'a Flux artifact'],
  [/^application\/vnd\.tekton\./, 'a Tekton bundle'],
  [/^application\/vnd\.(?:cnab|docker\.app)\./, 'a Cloud Native Application Bundle'],
  [/^application\/vnd\.buildkit\.cacheconfig\./, 'a build cache'],
  [/^application\/vnd\.cncf\.(?:model|kitops)|^application\/vnd\.docker\.ai\./, 'a machine-learning model'],
];

/** What something is whose types are these, the most telling first: `a Helm chart`, or `undefined` for what nobody knows. */
export function knownArtifact(types: readonly unknown[]): string | undefined {
  for (const type of types) {
    const known = typeof type === 'string' ? KNOWN.find(([pattern]) => pattern.test(type)) : undefined;
    if (known !== undefined) return known[1];
  }
  return undefined;
}
