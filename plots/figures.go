package main

import (
	"image/color"

	"gonum.org/v1/plot/vg"
)

// figures are all that can be drawn, by the name of their file.
var figures = map[string]*figure{
	"queueing-latency": {
		title: "how many requests take longer, at 85 % load\n20 unequal hosts, antagonists on eight; one client",
		x:     "latency (ms)", y: "share of requests that take longer (%)",
		logX: true, logY: true, minX: 5, maxX: 2000, minY: 0.01, maxY: 100,
	},
	"queueing-p99": {
		title: "the latency that one request in a hundred exceeds\n20 unequal hosts, antagonists on eight; one client",
		x:     "load (% of what the hosts can serve)", y: "99th percentile, × clairvoyant",
		logY: true, minY: 0.9, maxY: 5, points: true,
	},
	"fleet-p99": {
		title: "the 99th percentile as clients get more, at 85 % load in all\n20 unequal hosts, antagonists on eight",
		x:     "clients", y: "99th percentile, × clairvoyant",
		logX: true, logY: true, minX: 1, maxX: 200, minY: 0.9, maxY: 30, points: true,
	},
	"classic-regret": {
		title: "what each loses against the best host\nthree hosts that succeed with 0.1, 0.1 and 0.9",
		x:     "trials", y: "cumulative regret (score)", minX: 1, maxX: 250,
		logY: true, minY: 0.5, maxY: 200,
	},
	"failure-share": {
		title: "how often each picks the best host, which is down from half to three quarters\n" +
			"it succeeds with 0.9, four others with 0.4",
		x: "trials", y: "share of picks (%)", minY: 0, maxY: 102,
	},
	"many-regret": {
		title: "what each loses against the best hosts\n100 hosts, of which 30 are slow: 10 ms, the others 1 ms",
		x:     "trials", y: "cumulative regret (score)", minY: 0, maxY: 80,
	},
	"regret": {
		title: "regret beside the long-run bound (Lai and Robbins)",
		x:     "trials", y: "cumulative regret", logX: true, logY: true,
		minX: 100, maxX: 100_000, minY: 1, maxY: 5000,
	},
	"regret-switching": {
		title: "ten hosts; every 3,000 trials another one is the best",
		x:     "trials", y: "cumulative regret", minX: 0, maxX: 30_000, minY: 0, maxY: 2800,
	},
	"subsets": {
		title: "how evenly random subsets spread the connections\n5,000 clients, 5,000 hosts",
		x:     "hosts, from the least used to the most (%)", y: "connections per host, of the mean",
		minX: 0, maxX: 100, minY: 0, maxY: 3,
	},
	"overload-brownout": overload("brown-outs: all hosts slow from 4 s to 8 s"),
	"overload-rush":     overload("rushes: more than the hosts can do"),
	"overload-badhosts": overload("two of three hosts fail each request at once from 4 s to 14 s"),
}

func overload(title string) *figure {
	return &figure{title: title, x: "time (s)", y: "calls that succeed (%)", minY: 0, maxY: 102}
}

type style struct {
	colour color.NRGBA
	dashes []vg.Length
}

var (
	dashed = []vg.Length{vg.Points(7), vg.Points(3)}
	dotted = []vg.Length{vg.Points(2), vg.Points(2)}
)

// styles are those of lines, the same in all figures. What pooly does not have is dashed or dotted.
var styles = map[string]style{
	"round-robin":         {grey, nil},
	"softmax(0.1)":        {brown, nil},
	"epsilon-greedy(0.1)": {orange, nil},
	"Thompson":            {green, nil},
	"UCB(0.5)":            {olive, nil},
	"power of two":        {pink, nil},
	"peak EWMA(5)":        {violet, nil},
	"hot-cold(5, 0.84)":   {red, nil},

	"least latency":       {blue, nil},
	"Thompson, no decay":  {green, dashed},
	"UCB(0.5), no decay":  {olive, nil},
	"KL-UCB":              {blue, dashed},
	"textbook Thompson":   {red, dotted},
	"discounted UCB":      {brown, dashed},
	"discounted Thompson": {red, dotted},

	"clairvoyant":             {black, dotted},
	"central queue":           {brown, dashed},
	"Prequal, 5 probes":       {cyan, dashed},
	"JSQ(2), true queues":     {pink, dashed},
	"bound":                   {black, dotted},
	"pooly":                   {red, nil},
	"pooly without ejection":  {orange, dashed},
	"a pool per host in turn": {black, dotted},
}

var (
	blue   = color.NRGBA{0x1f, 0x77, 0xb4, 0xff}
	orange = color.NRGBA{0xf0, 0x7f, 0x0e, 0xff}
	grey   = color.NRGBA{0x7f, 0x7f, 0x7f, 0xff}
	brown  = color.NRGBA{0x8c, 0x56, 0x4b, 0xff}
	green  = color.NRGBA{0x2c, 0xa0, 0x2c, 0xff}
	olive  = color.NRGBA{0xa8, 0xa8, 0x00, 0xff}
	pink   = color.NRGBA{0xe3, 0x57, 0xb2, 0xff}
	violet = color.NRGBA{0x74, 0x47, 0xad, 0xff}
	red    = color.NRGBA{0xd6, 0x27, 0x28, 0xff}
	cyan   = color.NRGBA{0x17, 0xa9, 0xbe, 0xff}
	black  = color.NRGBA{0x20, 0x20, 0x20, 0xff}
)

// palette colours the lines that have no style, by their place in the panel.
var palette = [mostLines]color.NRGBA{red, blue, green, orange, violet, grey}

func styleOf(name string, place int) style {
	if s, ok := styles[name]; ok {
		return s
	}
	return style{palette[place], nil}
}
