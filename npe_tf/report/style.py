"""How the report page looks: its style sheet, light and dark, from a phone's width up."""

from __future__ import annotations

__all__ = ["DARK", "LIGHT", "STYLE_SHEET"]

LIGHT = {
    "page": "#ffffff",
    "panel": "#f5f6f8",
    "text": "#1b1f24",
    "muted": "#57606a",
    "line": "#d5d9de",
    "link": "#0a57a4",
    "good": "#1a6b3a",
    "fair": "#8a5300",
    "poor": "#a3261d",
}
"""Colours where the reader's system is light; text on them has a contrast of 4.5 or more."""

DARK = {
    "page": "#15181c",
    "panel": "#1e2328",
    "text": "#e4e7ea",
    "muted": "#a2adb8",
    "line": "#394048",
    "link": "#84bdf4",
    "good": "#74cb95",
    "fair": "#e2b45a",
    "poor": "#f2948a",
}
"""The same where it is dark."""


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


STYLE_SHEET = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);overflow-wrap:anywhere;
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif}
header,main,footer{max-width:64rem;margin:0 auto;padding:0 1.1rem}
header{padding-top:2.2rem}
footer{padding-top:1rem;padding-bottom:3rem;color:var(--muted);font-size:.85rem}
h1{font-size:1.9rem;line-height:1.2;margin:.1rem 0 .3rem;font-weight:600;letter-spacing:-.01em}
h2{font-size:1.25rem;line-height:1.3;margin:2.8rem 0 .8rem;padding-top:.9rem;font-weight:600;
 border-top:1px solid var(--line)}
section:first-child h2{margin-top:1.4rem}
h3{font-size:1rem;margin:1.6rem 0 .4rem;font-weight:600}
p,ul,ol{margin:.6rem 0;max-width:46rem}
ol,ul{padding-left:1.3rem}
li{margin:.25rem 0}
a{color:var(--link);text-underline-offset:.15em}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.eyebrow{margin:0;color:var(--muted);font-size:.85rem;letter-spacing:.02em}
.facts{color:var(--muted);margin:.2rem 0 0}
nav ul{list-style:none;padding:0;margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;
 font-size:.92rem;max-width:none}
nav li{margin:0}
nav a{display:inline-block;padding:.2rem 0;text-decoration:none}
nav a:hover{text-decoration:underline}
.verdict{background:var(--panel);border-left:.4rem solid var(--state);border-radius:.25rem;
 padding:1rem 1.2rem 1.1rem;margin:.6rem 0 1rem}
.verdict .state{margin:0;font-size:1.5rem;line-height:1.25;font-weight:650;color:var(--state);
 letter-spacing:.01em}
.verdict p{max-width:none}
.verdict h3{margin:1.1rem 0 .2rem}
.verdict ol{margin-bottom:0}
.good{--state:var(--good)}.fair{--state:var(--fair)}.poor{--state:var(--poor)}
.measures{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.8rem 1.6rem;
 margin:1rem 0 0}
.measures>div{border-top:1px solid var(--line);padding-top:.5rem}
.measures dt{color:var(--muted);font-size:.85rem}
.measures dd{margin:0}
.measures .value{font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums;
 line-height:1.3}
.measures .of{color:var(--muted);font-size:.85rem}
.pairs{display:grid;grid-template-columns:minmax(7.5rem,14rem) 1fr;gap:.4rem 1.2rem;margin:.8rem 0}
.pairs dt{color:var(--muted)}
.pairs dd{margin:0;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin:.8rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;line-height:1.4}
.caption{color:var(--muted);font-size:.88rem;margin:1rem 0 0}
.caption+.scroll{margin-top:.3rem}
th,td{padding:.28rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{font-weight:600;vertical-align:bottom;border-bottom:1.5px solid var(--muted)}
th:first-child,td.text,th.text{text-align:left}
tbody th{font-weight:400;position:sticky;left:0;background:var(--page);padding-left:0}
thead th:first-child{position:sticky;left:0;background:var(--page);padding-left:0}
td.text{white-space:normal;min-width:9rem}
td:last-child,th:last-child{padding-right:.2rem}
.beyond{font-weight:700;color:var(--poor)}
.bar{width:6.5rem;height:1.1rem;display:block}
.bar .range{stroke:var(--link);stroke-width:3}
.bar .middle{fill:var(--link)}
.bar .zero{stroke:var(--line);stroke-width:1}
sup,sub{line-height:0;font-size:.75em}
pre{background:var(--panel);border-radius:.25rem;padding:.8rem 1rem;margin:.7rem 0;
 white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem;line-height:1.5}
code{font-size:.92em}
.argument{display:inline-block;max-width:100%;vertical-align:top}
.flag{white-space:nowrap}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
figure{margin:1.6rem 0 2.2rem}
.plate{width:fit-content;max-width:100%;overflow-x:auto;padding:.5rem;background:#fff;
 border:1px solid var(--line);border-radius:.25rem}
.plate img{display:block;margin:0 auto;max-width:100%;height:auto}
figcaption{margin-top:.6rem;font-size:.9rem;color:var(--muted);max-width:46rem}
figcaption strong{color:var(--text);font-weight:600}
.warnings li{padding-left:.2rem}
.warnings li::marker{content:"!  ";font-weight:700;color:var(--fair)}
details{margin:.8rem 0}
summary{cursor:pointer;color:var(--link);padding:.2rem 0}
@media(max-width:38rem){
 body{font-size:.97rem}
 header{padding-top:1.3rem}
 h1{font-size:1.55rem}
 .pairs{grid-template-columns:1fr;gap:0}
 .pairs dd{margin-bottom:.55rem}
 tbody th{white-space:normal;min-width:7rem;max-width:9.5rem;overflow-wrap:normal}
 th,td{padding-left:.55rem;padding-right:.55rem}
 .plate img.wide{max-width:none;width:40rem}
 .verdict{padding:.9rem .9rem 1rem}
}
@media print{
 :root{color-scheme:light}
 nav{display:none}
 .scroll,.plate{overflow:visible}
 figure,tr,.verdict{break-inside:avoid}
 details>*{display:block}
}
"""
)
"""The whole style sheet."""
