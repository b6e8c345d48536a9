package pooly_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// layer is a set of files that may use each other.
type layer struct {
	name  string
	files []string
}

// layers are the files from bottom to top. What a file uses is declared in its own layer or in a lower one.
var layers = []layer{
	{"words: what a connection, a driver and a configuration are, and plain mechanisms", []string{
		"doc.go", "clock.go", "lock.go", "lock_yield.go", "errors.go", "stats.go", "config.go", "poolconfig.go", "score.go",
		"conn.go", "driver.go", "netdriver.go", "driverof.go", "share.go", "shared.go",
		"liveness.go", "timeoutconn.go", "observer.go",
		"idle.go", "watch.go", "limiter.go", "loadcurve.go", "budget.go", "tasks.go", "bell.go", "hostmetrics.go",
	}},
	{"the queue, which knows no pool", []string{"waiter.go", "queue.go"}},
	{"the pool of one host, which knows no host", []string{
		"group.go", "pool.go", "take.go", "serve.go", "gate.go", "dial.go", "close.go", "calls.go", "hooks.go", "leak.go", "wait.go",
		"reaper.go", "keepalive.go", "minidle.go", "evict.go",
	}},
	{"a host, its health, and the others that it is compared with", []string{
		"cluster.go", "pace.go", "host.go", "health.go", "outliers.go", "loadreport.go",
	}},
	{"strategies", []string{
		"bandit.go", "choices.go", "epsilon.go", "hotcold.go", "leastlatency.go", "peakewma.go", "poweroftwo.go",
		"roundrobin.go", "softmax.go", "thompson.go", "ucb.go", "weightedroundrobin.go",
	}},
	{"the service: one type, whose parts use each other", []string{
		"snapshot.go", "refresh.go", "hosts.go", "subset.go", "rounds.go", "acquire.go",
		"check.go", "diagnose.go", "observed.go", "probes.go", "relativescore.go", "metrics.go", "insight.go", "resolver.go",
		"service.go", "operate.go", "ready.go",
	}},
	{"what protocols build on", []string{"lease.go", "trylease.go"}},
	{"ways to use a service", []string{"do.go", "race.go", "dialcontext.go", "outdated.go"}},
}

// upwards are the uses that go upwards all the same.
var upwards = map[string][]string{
	// A ServiceConfig is plain data: it names the type of each plug-in, and the one that is the default.
	"config.go":     {"Bandit", "NewRoundRobin"},
	"poolconfig.go": {"Hooks"},

	// A lease goes back to its pool. To stand below, it would have to call it through an interface in each Release.
	"conn.go": {"Pool", "address", "put", "putBack", "outcomeOf"},
}

// Bounds of what a reader meets who follows GetConnContext, see reachOf.
var (
	// All that may run because of a call: dials, ejections, probes, snapshots, and the release of a lease that was lost,
	// in the background.
	mostReached = reached{functions: 294, structs: 70, fields: 500, files: 53}

	// Of this, what runs in the caller's goroutine.
	mostCalled = reached{functions: 117, structs: 45, fields: 267, files: 41}
)

type reached struct{ functions, structs, fields, files int }

// linesOfAFile is how long a file may be, without its tests.
const linesOfAFile = 400

// A change that fails here wants something of a higher layer. Give it to the lower one: as a value, a function, or a
// method of an interface that the lower layer declares.
func TestFilesUseOnlyTheirOwnLayerAndLowerOnes(t *testing.T) {
	c, err := readCode()
	require.NoError(t, err)
	level := make(map[string]int)
	for i, l := range layers {
		for _, file := range l.files {
			require.NotContains(t, level, file)
			require.FileExists(t, file)
			level[file] = i
		}
	}
	unused := make(map[string]bool)
	for file, names := range upwards {
		for _, name := range names {
			unused[file+" "+name] = true
		}
	}
	for _, f := range c.files {
		file := c.fileOf(f.Pos())
		c.used(f, func(id *ast.Ident, o types.Object) {
			declared := c.fileOf(o.Pos())
			if level[declared] <= level[file] {
				return
			}
			delete(unused, file+" "+o.Name())
			if !slices.Contains(upwards[file], o.Name()) {
				t.Errorf("%v: %s is declared in a higher layer, in %s", c.fset.Position(id.Pos()), o.Name(), declared)
			}
		})
	}
	require.Empty(t, unused, "exceptions that nothing needs any more")
}

func TestEachFileIsInALayerAndShort(t *testing.T) {
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if !slices.ContainsFunc(layers, func(l layer) bool { return slices.Contains(l.files, name) }) {
			t.Errorf("%s is in no layer", name)
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if n := strings.Count(string(text), "\n"); n > linesOfAFile {
			t.Errorf("%s has %d lines", name, n)
		}
	}
}

func TestInternalPackagesImportNothingOfPooly(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}\n{{end}}",
		"./internal/...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		_, imported, _ := strings.Cut(strings.TrimSpace(line), " ")
		if imported == root || strings.HasPrefix(imported, root+"/") && !strings.HasPrefix(imported, root+"/internal/") {
			t.Error(line)
		}
	}
}

// Programs that speak neither HTTP nor SQL should not link them.
func TestProgramsThatUsePoolyDoNotLinkHTTPOrSQL(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	require.NotContains(t, strings.Fields(string(out)), "net/http")
	require.NotContains(t, strings.Fields(string(out)), "database/sql")
	require.Contains(t, strings.Fields(string(out)), "crypto/tls", "the list is that of all dependencies")
}

func TestGetConnReachesLittle(t *testing.T) {
	c, err := readCode()
	require.NoError(t, err)
	for _, test := range []struct {
		name       string
		background bool
		most       reached
	}{
		{"in the caller's goroutine", false, mostCalled},
		{"with the background", true, mostReached},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := c.reachOf("GetConnContext", test.background)
			got := reached{len(r.functions), len(r.structs), len(r.fields), len(r.files)}
			t.Logf("%+v", got)
			by := make(map[string][]string)
			for f := range r.functions {
				by[c.fileOf(f.Pos())] = append(by[c.fileOf(f.Pos())], f.Name())
			}
			for _, file := range slices.Sorted(maps.Keys(by)) {
				slices.Sort(by[file])
				t.Log(file, len(by[file]), by[file])
			}
			require.LessOrEqual(t, got.functions, test.most.functions, "functions")
			require.LessOrEqual(t, got.structs, test.most.structs, "struct types")
			require.LessOrEqual(t, got.fields, test.most.fields, "fields")
			require.LessOrEqual(t, got.files, test.most.files, "files")
		})
	}
}

// root is the path of this package.
const root = "github.com/3XX0/pooly"

// code is this package's, parsed and with its types checked.
type code struct {
	fset  *token.FileSet
	pkg   *types.Package
	files []*ast.File // those of this platform, without tests
	uses  map[*ast.Ident]types.Object
	defs  map[*ast.Ident]types.Object
}

var readCode = sync.OnceValues(func() (*code, error) {
	// The compiler's export data of what is imported is in the build cache, since this test was built with it.
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", ".")
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, export, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[path] = export
	}
	if out, err = exec.Command("go", "list", "-f", "{{join .GoFiles \"\\n\"}}", ".").Output(); err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	c := &code{
		fset: token.NewFileSet(),
		uses: make(map[*ast.Ident]types.Object),
		defs: make(map[*ast.Ident]types.Object),
	}
	for name := range strings.Lines(string(out)) {
		file, err := parser.ParseFile(c.fset, strings.TrimSpace(name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		c.files = append(c.files, file)
	}
	config := types.Config{Importer: importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	info := &types.Info{Uses: c.uses, Defs: c.defs}
	c.pkg, err = config.Check(root, c.fset, c.files, info)
	return c, err
})

// fileOf returns the name of the file that has a position.
func (c *code) fileOf(pos token.Pos) string {
	return filepath.Base(c.fset.Position(pos).Filename)
}

// objectOf returns the package's object that an identifier uses: a function, method, type, field, package variable
// or constant. It is nil for local variables and what is imported.
func (c *code) objectOf(id *ast.Ident) types.Object {
	switch o := c.uses[id].(type) {
	case *types.Var:
		if o = o.Origin(); o.Pkg() == c.pkg && (o.IsField() || o.Parent() == c.pkg.Scope()) {
			return o
		}
	case *types.Func:
		if o = o.Origin(); o.Pkg() == c.pkg {
			return o
		}
	case *types.TypeName, *types.Const:
		if o.Pkg() == c.pkg && o.Parent() == c.pkg.Scope() {
			return o
		}
	}
	return nil
}

// used calls yield with each object of the package that the code below node uses.
func (c *code) used(node ast.Node, yield func(*ast.Ident, types.Object)) {
	c.usedBy(node, true, yield)
}

func (c *code) usedBy(node ast.Node, background bool, yield func(*ast.Ident, types.Object)) {
	ast.Inspect(node, func(n ast.Node) bool {
		if !background && c.starts(n) {
			return false
		}
		if id, ok := n.(*ast.Ident); ok {
			if o := c.objectOf(id); o != nil {
				yield(id, o)
			}
		}
		return true
	})
}

// starts reports whether a node begins something in the background.
func (c *code) starts(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		return true
	case *ast.CallExpr:
		s, ok := n.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		f, ok := c.uses[s.Sel].(*types.Func)
		return ok && (f.FullName() == "time.AfterFunc" || f.FullName() == "context.AfterFunc" || f.FullName() == "(*"+root+".tasks).start")
	}
	return false
}

// reach is what can run once a function was called, and what it touches.
type reach struct {
	functions, structs, fields map[types.Object]bool
	files                      map[string]bool
}

// reachOf follows the functions that a function calls or refers to, and those that these call, and so on. A function
// literal belongs to the function that it stands in. A call of an unexported interface's method reaches all its
// implementations, and that of a field all functions that are stored in it. Exported interfaces are plug-ins, and not
// followed. A struct or field counts if a function that is reached uses a field of it.
//
// Without background, what a go statement, AfterFunc or tasks.start is given does not count.
func (c *code) reachOf(name string, background bool) *reach {
	bodies := make(map[types.Object]*ast.FuncDecl)
	stored := make(map[types.Object][]types.Object)
	owners := make(map[types.Object]types.Object) // of fields
	for _, file := range c.files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				bodies[c.defs[n.Name]] = n
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok {
					ast.Inspect(s, func(f ast.Node) bool {
						if id, ok := f.(*ast.Ident); ok && c.defs[id] != nil {
							owners[c.defs[id]] = c.defs[n.Name]
						}
						return true
					})
				}
			case *ast.AssignStmt:
				if len(n.Lhs) == len(n.Rhs) {
					for i := range n.Lhs {
						c.store(stored, n.Lhs[i], n.Rhs[i])
					}
				}
			case *ast.KeyValueExpr:
				c.store(stored, n.Key, n.Value)
			}
			return true
		})
	}
	r := &reach{make(map[types.Object]bool), make(map[types.Object]bool), make(map[types.Object]bool),
		make(map[string]bool)}
	var visit func(types.Object)
	visit = func(f types.Object) {
		body := bodies[f]
		if body == nil || r.functions[f] {
			return
		}
		r.functions[f] = true
		r.files[c.fileOf(f.Pos())] = true
		c.usedBy(body, background, func(_ *ast.Ident, o types.Object) {
			switch o := o.(type) {
			case *types.Func:
				visit(o)
				for _, m := range c.implementations(o) {
					visit(m)
				}
			case *types.Var:
				if o.IsField() {
					r.fields[o] = true
					r.structs[owners[o]] = true
					r.files[c.fileOf(o.Pos())] = true
				}
				for _, f := range stored[o] {
					visit(f)
				}
			}
		})
	}
	for f := range bodies {
		if f != nil && f.Name() == name {
			visit(f)
		}
	}
	delete(r.structs, nil)
	return r
}

// store notes the functions that the code of a value refers to, if it is stored in a field of a function's type.
func (c *code) store(stored map[types.Object][]types.Object, key, value ast.Expr) {
	id, ok := key.(*ast.Ident)
	if s, selects := key.(*ast.SelectorExpr); selects {
		id, ok = s.Sel, true
	}
	if !ok {
		return
	}
	field, ok := c.objectOf(id).(*types.Var)
	if !ok || !field.IsField() {
		return
	}
	if _, ok := field.Type().Underlying().(*types.Signature); !ok {
		return
	}
	c.used(value, func(_ *ast.Ident, o types.Object) {
		if f, ok := o.(*types.Func); ok {
			stored[field] = append(stored[field], f)
		}
	})
}

// implementations returns the methods that implement one of an unexported interface.
func (c *code) implementations(m *types.Func) (methods []types.Object) {
	receiver := m.Signature().Recv()
	if receiver == nil {
		return nil
	}
	named, ok := receiver.Type().(*types.Named)
	if !ok || named.Obj().Exported() {
		return nil
	}
	i, ok := named.Underlying().(*types.Interface)
	if !ok {
		return nil
	}
	for _, name := range c.pkg.Scope().Names() {
		t, ok := c.pkg.Scope().Lookup(name).(*types.TypeName)
		if !ok || types.IsInterface(t.Type()) || !types.Implements(types.NewPointer(t.Type()), i) {
			continue
		}
		o, _, _ := types.LookupFieldOrMethod(types.NewPointer(t.Type()), false, c.pkg, m.Name())
		methods = append(methods, o)
	}
	return methods
}
