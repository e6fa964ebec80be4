"""Graphs of a model, each of which is a model to the Open Inference Protocol."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.bundle import Array, TabularInput, Tensor
from service.codecs.bodies import QUICK_ARRAY, QUICK_MARKED, without_values
from service.codecs.child import ChildProcess
from service.codecs.instances import parse_latents, parse_rows
from service.codecs.oip_messages import DrawParameters, EncodeParameters, ExplainParameters, InferParameters
from service.codecs.rows import Reading
from service.inference import Model
from service.scoring import ElboQuery

_SERVED = ("elbo", "encoder", "decoder", "explain", "draw")
"""The graphs that are models to the protocol; the others are steps of what these answer."""


@dataclass(frozen=True)
class Graph:
    """One graph of a model, which to the protocol is a model."""

    model: Model
    graph: str

    @property
    def name(self) -> str:
        return self.model.manifest.name if self.graph == "elbo" else f"{self.model.manifest.name}.{self.graph}"

    @property
    def version(self) -> str:
        return str(self.model.manifest.version)

    @property
    def input(self) -> Tensor:
        """What clients send: x or z. The service makes the noise."""
        return self.model.manifest.graphs[self.graph].inputs[0]

    @property
    def outputs(self) -> list[Tensor]:
        manifest = self.model.manifest
        outputs = list(manifest.graphs[self.graph].outputs)
        if self.graph == "elbo":
            units = {"score": "as the manifest says", "p_value": "probability"}
            outputs += [Tensor(name=name, dtype="float64", shape=("batch",), unit=unit) for name, unit in units.items()]
        elif self._cell_by_cell:
            units, shape = {"feature_surprise": "nats", "feature_expected": "data"}, ("batch", *manifest.input.shape)
            outputs += [Tensor(name=name, dtype="float64", shape=shape, unit=unit) for name, unit in units.items()]
        return outputs

    @property
    def row_draws(self) -> int:
        """What a row costs under the bundle's own draws."""
        draws = self.model.manifest.num_draws if self.graph in {"elbo", "explain"} else 1
        return draws * (1 + len(self.model.manifest.input.features)) if self._cell_by_cell else draws

    @property
    def _cell_by_cell(self) -> bool:
        """For tables, each cell is explained beside the others."""
        return self.graph == "explain" and isinstance(self.model.manifest.input, TabularInput)

    async def infer(self, tensor: Array, parameters: InferParameters, child: ChildProcess) -> dict[str, Any]:
        """Every output by name, as the ordinary endpoints compute it; what takes long at either end, by the child."""
        manifest = self.model.manifest
        if not isinstance(parameters, EncodeParameters):  # The graph takes z.
            z = await child.call(tensor.nbytes <= QUICK_ARRAY, parse_latents, tensor, manifest.latent_size)
            if isinstance(parameters, DrawParameters):
                return {"x": await self.model.draw(z, parameters.seed)}
            return {"x_mean": await self.model.decode(z)}
        reading = Reading(mark=parameters.on_error == "mark")
        quick = tensor.nbytes <= (QUICK_MARKED if reading.mark else QUICK_ARRAY)
        rows = await child.call(quick, parse_rows, tensor, manifest.input, reading)
        named = rows if quick else without_values(rows)
        if not isinstance(parameters, ExplainParameters):
            posterior = await self.model.encode(rows.x)
            return await child.call(quick, named.answer, posterior, np.isnan(posterior["mean"][:, 0]))
        asked = parameters.model_dump(include={"num_draws", "seed", "score", "refine"})
        observe = len(rows.places) > 0  # Else the one row that is computed is none of the client's.
        bounds = await self.model.elbo(rows.x, ElboQuery(**asked, explain=self.graph == "explain", observe=observe))
        return await child.call(quick, named.answer, bounds, np.isnan(bounds["score"]))


def served_graphs(model: Model) -> list[Graph]:
    """The graphs of a model that are models to the protocol."""
    return [Graph(model, graph) for graph in _SERVED if graph in model.manifest.graphs]
