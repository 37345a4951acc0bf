"""`gateway render`: the configurations of many sites out of one template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def render(
    template: Annotated[Path, typer.Argument(help="Configuration file with ${VARIABLE} in it.")],
    sites: Annotated[
        Path, typer.Option("--sites", help="YAML: a line per site, NAME: {VARIABLE: value, …}.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for NAME.yaml, one file per site.")
    ] = None,
    site: Annotated[list[str] | None, typer.Option("--site", help="Only this site; may repeat.")] = None,
) -> None:
    """Fill a template in for each site. ${SITE} is the site's name.

    A variable that a site has no value for stays as it is, for the gateway's own environment: secrets belong
    there, or in files. Without --output the result of a single --site goes to stdout.
    """
    from gateway.config.load import read_config  # noqa: PLC0415 - half a second of models
    from gateway.config.rendering import open_variables, read_sites, unused  # noqa: PLC0415
    from gateway.config.rendering import render as rendered  # noqa: PLC0415
    from gateway.config.types import NAME_PATTERN  # noqa: PLC0415

    text, known = read_config(template), read_sites(read_config(sites), sites.name)
    names = site or [*known]
    missing = [name for name in names if name not in known]
    if missing:
        raise typer.BadParameter(f"{sites.name} has no site {missing[0]!r}")
    unsafe = [name for name in names if not re.fullmatch(NAME_PATTERN, name)]
    if unsafe:
        raise typer.BadParameter(f"{sites.name}: {unsafe[0]!r} is no name of a file: letters, digits, . _ -")
    if output is None and len(names) != 1:
        raise typer.BadParameter("give --output DIR for more than one site")
    made = {name: rendered(text, {"SITE": name, **known[name]}, name) for name in names}
    for name in names:
        for variable in unused(text, known[name]):
            typer.echo(f"warning: {name}: the template has no ${{{variable}}}", err=True)
    if output is None:
        typer.echo(made[names[0]], nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (output / f"{name}.yaml").write_text(content)
    left = open_variables(next(iter(made.values())))
    typer.echo(f"{len(made)} configurations are in {output}")
    if left:
        typer.echo(f"the gateways' environment fills in {', '.join(left)}")
