/** One served model: its operations on typed arrays and records. Knows the endpoints, but no page element. */

export class Model {
  #service;
  #path;

  /** `description` is the answer of `/model`. */
  constructor(service, path, description) {
    this.#service = service;
    this.#path = path;
    Object.assign(this, description);
    this.input = this.manifest.input;
    this.latentSize = this.manifest.latent_size;
  }

  static async open(service, name, version) {
    const path = `models/${name}/versions/${version}/`;
    return new Model(service, path, await service.json(`${path}model`));
  }

  /** Whether the bundle has this graph. */
  has(graph) {
    return graph in this.manifest.graphs;
  }

  /** Values of one picture. */
  get pictureSize() {
    return this.input.shape.reduce((total, size) => total * size, 1);
  }

  /** Where the model card is. */
  get cardAddress() {
    return `${this.#path}model/card`;
  }

  /** The model card, HTML. */
  card() {
    return this.#service.text(this.cardAddress);
  }

  /** `latents` and `instances`, both arrays; of a table, records. */
  sample(n, seed, temperature) {
    const ask = this.input.kind === "image" ? "npy" : "json";
    return this.#service[ask](`${this.#path}sample`, { n, seed, temperature });
  }

  /** E[x|z] of pictures, for a Float32Array of latents one after the other. */
  decode(latents) {
    return this.#service.npy(`${this.#path}decode`, {}, latents, [latents.length / this.latentSize, this.latentSize]);
  }

  /** One draw from p(x|z) of rows, as records. */
  async drawRows(latents, seed) {
    return (await this.#service.json(`${this.#path}decode`, { draw: true, seed }, { latents })).instances;
  }

  /** The pictures in a file of any format that the service reads, as an array in data units. */
  read(file) {
    return this.#service.file(`${this.#path}instances`, file);
  }

  /** `mean` and `log_variance`; pictures are one after the other in one array of levels. */
  encode(pictures) {
    return this.#service.npy(`${this.#path}encode`, {}, pictures, this.#shape(pictures));
  }

  /** The bounds of pictures, arrays by name. What people try out here is no evidence of drift. */
  elbo(pictures, query, signal) {
    return this.#service.npy(`${this.#path}elbo`, { ...query, observe: false }, pictures, this.#shape(pictures), signal);
  }

  /** The bounds of records, lists by name; `problem` says what is wrong with each, in the words of a row, or is null. */
  async elboOfRows(instances, query, signal) {
    const asked = { ...query, observe: false, on_error: "mark" };
    const answer = await this.#service.json(`${this.#path}elbo`, asked, { instances }, signal);
    const inWords = (text) => text?.replaceAll(/instances\[\d+\][.:]? ?/g, "") ?? null;
    return { ...answer, problem: answer.problem.map(inWords) };
  }

  #shape(pictures) {
    return [pictures.length / this.pictureSize, ...this.input.shape];
  }
}
