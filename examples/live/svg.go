package main

import (
	"fmt"
	"html"
	"image/color"
	"strings"

	uv "github.com/charmbracelet/ultraviolet"
)

// svg draws a screen of text with ANSI colors, for documents.
func svg(screen string, width, height int) string {
	const w, h, font = 8.4, 18, 14 // of a cell, and the letters in it, in pixels
	buffer := uv.NewScreenBuffer(width, height)
	uv.NewStyledString(screen).Draw(buffer, buffer.Bounds())
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="monospace" font-size="%d">`+"\n",
		w*float64(width)+2*h, (height+1)*h, font)
	fmt.Fprintln(&b, `<rect width="100%" height="100%" rx="8" fill="#16181d"/>`)
	rect := func(x, y, width, height float64, c color.Color) {
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" shape-rendering="crispEdges"/>`+"\n", h+x*w, h/2+y*h, width*w, height*h, hex(c))
	}
	for y := range height {
		for x := 0; x < width; {
			c := buffer.CellAt(x, y)
			run, text := 1, c.Content
			for x+run < width && buffer.CellAt(x+run, y).Style.Equal(&c.Style) &&
				(buffer.CellAt(x+run, y).Content == "▀") == (c.Content == "▀") {
				text += buffer.CellAt(x+run, y).Content
				run++
			}
			switch {
			case c.Content == "▀": // as rectangles, since fonts leave gaps; they overlap, or browsers leave some too
				rect(float64(x), float64(y), float64(run)+0.02, 0.51, c.Style.Fg)
				rect(float64(x), float64(y)+0.5, float64(run)+0.02, 0.51, c.Style.Bg)
			case strings.TrimSpace(text) != "":
				weight := ""
				if c.Style.Attrs&uv.AttrBold != 0 {
					weight = ` font-weight="bold"`
				}
				fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" textLength="%.1f" fill="%s"%s xml:space="preserve">%s</text>`+"\n",
					h+float64(x)*w, h/2+float64(y)*h+font, float64(run)*w, hex(c.Style.Fg), weight, html.EscapeString(text))
			}
			x += run
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func hex(c color.Color) string {
	if c == nil {
		return "#d7dae0"
	}
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)
}
