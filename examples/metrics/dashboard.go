package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// dashboardJSON is the Grafana dashboard, to be imported as it is.
//
//go:embed grafana/pooly.json
var dashboardJSON []byte

// dashboard is what is needed of one to draw its panels.
type dashboard struct {
	Panels []panel
}

type panel struct {
	ID          int
	Title       string
	Description string
	Type        string
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct {
		Defaults struct {
			Unit   string
			Min    *float64
			Custom struct {
				Stacking struct{ Mode string }
			}
		}
	}
	Targets []struct {
		RefID  string
		Target string
	}
}

func readDashboard() (d dashboard, err error) {
	return d, json.Unmarshal(dashboardJSON, &d)
}

// units are what Grafana's names of units mean, for a picture's title.
var units = map[string]string{"percent": " (percent)", "ms": " (milliseconds)", "cps": " (per second)", "short": ""}

// drawPanels has graphite-web draw the dashboard's panels, each into a file named after its title.
func drawPanels(graphite, service string, from, until time.Time, folder string) error {
	d, err := readDashboard()
	if err != nil {
		return err
	}
	for _, p := range d.Panels {
		if p.Type != "timeseries" {
			continue
		}
		file := filepath.Join(folder, fileName(p.Title))
		if err := drawPanel(graphite, service, from, until, p, file); err != nil {
			return err
		}
		fmt.Println("drew", file)
	}
	return nil
}

// fileName makes "How slow is GetConn?" how-slow-is-getconn.png.
func fileName(title string) string {
	words := strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	return strings.Join(words, "-") + ".png"
}

func drawPanel(graphite, service string, from, until time.Time, p panel, file string) error {
	query := url.Values{
		"format": {"png"}, "width": {"640"}, "height": {"300"}, "from": {fmt.Sprint(from.Unix())}, "until": {fmt.Sprint(until.Unix())},
		"title":      {p.Title + units[p.FieldConfig.Defaults.Unit]},
		"hideLegend": {"false"}, "lineWidth": {"2"}, "lineMode": {"connected"}, "connectedLimit": {"15"},
		"bgcolor": {"ffffff"}, "fgcolor": {"333333"}, "majorGridLineColor": {"dddddd"}, "minorGridLineColor": {"f3f3f3"},
		"fontName": {"Sans"}, "fontSize": {"11"}, "tz": {"UTC"},
		"colorList": {"3274d9,e0752d,56a64b,c4162a,8f3bb8,e0b400"},
	}
	if p.FieldConfig.Defaults.Min != nil {
		query.Set("yMin", fmt.Sprint(*p.FieldConfig.Defaults.Min))
	}
	if p.FieldConfig.Defaults.Custom.Stacking.Mode == "normal" {
		query.Set("areaMode", "stacked")
		query.Set("areaAlpha", "0.8")
	}
	for _, t := range p.Targets {
		query.Add("target", strings.ReplaceAll(t.Target, "$service", service))
	}
	answer, err := http.Get(graphite + "/render?" + query.Encode())
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	picture, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "image/png" {
		return fmt.Errorf("graphite drew no picture of %q: %s", p.Title, answer.Status)
	}
	return os.WriteFile(file, picture, 0o644)
}
