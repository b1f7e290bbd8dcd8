// A reader of a log's public face that shares nothing with the product: Go's own notes and trees.
//
// It reads the checkpoint, every tile and every entry below a base (a folder, or an http address), and holds
// checkpoints kept earlier, proofs of entries and proofs of consistency against them. One JSON object tells what it
// found; whatever does not hold ends it with status 1 and one line.
//
// Formats: C2SP tlog-tiles, tlog-checkpoint, tlog-proof, and the body of tlog-witness' add-checkpoint.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height, width = 8, 256

type head struct {
	origin string
	size   int64
	root   tlog.Hash
	signed []string
	others []string
}

// openHead verifies a signed checkpoint; lines of unknown keys are told by name.
func openHead(data []byte, known note.Verifiers, log string) (head, error) {
	opened, err := note.Open(data, known)
	if err != nil {
		return head{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 {
		return head{}, fmt.Errorf("the checkpoint has %d lines", len(lines))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return head{}, fmt.Errorf("the checkpoint has no size")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return head{}, err
	}
	found := head{origin: lines[0], size: size, root: root}
	for _, line := range opened.Sigs {
		found.signed = append(found.signed, line.Name)
	}
	for _, line := range opened.UnverifiedSigs {
		found.others = append(found.others, line.Name)
	}
	if found.origin != log || found.signed[0] != log {
		return head{}, fmt.Errorf("the checkpoint is not of %s", log)
	}
	return found, nil
}

// place is where the log's files are; each is read once, as what was published never changes.
type place struct {
	base, token string
	seen        map[string][]byte
}

func (p *place) read(path string) ([]byte, error) {
	if data, ok := p.seen[path]; ok {
		return data, nil
	}
	data, err := p.fetch(path)
	if err == nil {
		p.seen[path] = data
	}
	return data, err
}

func (p *place) fetch(path string) ([]byte, error) {
	if !strings.HasPrefix(p.base, "http://") {
		return os.ReadFile(filepath.Join(p.base, filepath.FromSlash(path)))
	}
	request, err := http.NewRequest("GET", p.base+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if p.token != "" {
		request.Header.Set("Authorization", "Bearer "+p.token)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", path, reply.Status)
	}
	return io.ReadAll(reply.Body)
}

// tilePath names a tile as C2SP does; Go's checksum database has another path for the same bytes.
func tilePath(level string, n int64, w int) string {
	name := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	path := "tile/" + level + "/" + name
	if w < width {
		path += ".p/" + strconv.Itoa(w)
	}
	return path
}

// Height, ReadTiles and SaveTiles make a place a tlog.TileReader.
func (p *place) Height() int { return height }

func (p *place) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		level := strconv.Itoa(tile.L)
		data, err := p.read(tilePath(level, tile.N, tile.W))
		if err != nil && tile.W < width {
			data, err = p.read(tilePath(level, tile.N, width))
		}
		if err != nil {
			return nil, err
		}
		if len(data) < tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s is short", tilePath(level, tile.N, tile.W))
		}
		all = append(all, data[:tile.W*tlog.HashSize])
	}
	return all, nil
}

func (p *place) SaveTiles([]tlog.Tile, [][]byte) {}

// bundle returns the entries of one bundle.
func (p *place) bundle(n int64, w int) ([][]byte, error) {
	path := tilePath("entries", n, w)
	data, err := p.read(path)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("%s is cut off", path)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		entries, data = append(entries, data[2:end]), data[end:]
	}
	if len(entries) != w {
		return nil, fmt.Errorf("%s holds %d entries", path, len(entries))
	}
	return entries, nil
}

// checkEntries compares every entry with its leaf hash in proven tiles; each `step`th is proven besides.
func checkEntries(p *place, now head, reader tlog.HashReader, step int64) (longest int, proven int, err error) {
	for begin := int64(0); begin < now.size; begin += width {
		w := width
		if now.size-begin < width {
			w = int(now.size - begin)
		}
		entries, err := p.bundle(begin/width, w)
		if err != nil {
			return 0, 0, err
		}
		indexes := make([]int64, w)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(0, begin+int64(i))
		}
		leaves, err := reader.ReadHashes(indexes)
		if err != nil {
			return 0, 0, err
		}
		for i, entry := range entries {
			at := begin + int64(i)
			if len(entry) > longest {
				longest = len(entry)
			}
			if tlog.RecordHash(entry) != leaves[i] {
				return 0, 0, fmt.Errorf("entry %d is not the one in the tree", at)
			}
			if at%step != 0 && at != now.size-1 {
				continue
			}
			proof, err := tlog.ProveRecord(now.size, at, reader)
			if err == nil {
				err = tlog.CheckRecord(proof, now.size, now.root, at, tlog.RecordHash(entry))
			}
			if err != nil {
				return 0, 0, fmt.Errorf("entry %d: %v", at, err)
			}
			proven++
		}
	}
	return longest, proven, nil
}

// checkProof verifies one .tlog-proof file whose extra data is the entry.
func checkProof(data []byte, known note.Verifiers, log string) error {
	cut := bytes.Index(data, []byte("\n\n"))
	if cut < 0 {
		return fmt.Errorf("no checkpoint in it")
	}
	lines := strings.Split(string(data[:cut]), "\n")
	if len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return fmt.Errorf("not a proof")
	}
	entry, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	hashes, err := parseHashes(lines[3:])
	if err != nil {
		return err
	}
	now, err := openHead(data[cut+2:], known, log)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(hashes, now.size, now.root, index, tlog.RecordHash(entry))
}

// checkGrowth verifies a proof of consistency (the body of add-checkpoint) from an older checkpoint.
func checkGrowth(data []byte, older head, known note.Verifiers, log string) error {
	cut := bytes.Index(data, []byte("\n\n"))
	if cut < 0 {
		return fmt.Errorf("no checkpoint in it")
	}
	lines := strings.Split(string(data[:cut]), "\n")
	if lines[0] != "old "+strconv.FormatInt(older.size, 10) {
		return fmt.Errorf("it begins elsewhere than the older checkpoint")
	}
	hashes, err := parseHashes(lines[1:])
	if err != nil {
		return err
	}
	now, err := openHead(data[cut+2:], known, log)
	if err != nil {
		return err
	}
	return tlog.CheckTree(hashes, now.size, now.root, older.size, older.root)
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

type files []string

func (f *files) String() string { return strings.Join(*f, ",") }

func (f *files) Set(name string) error { *f = append(*f, name); return nil }

func run() (map[string]any, error) {
	var keys, olders, proofs, growths files
	flag.Var(&keys, "key", "vkey; the log's own first")
	flag.Var(&olders, "old", "file of an older checkpoint; again for each")
	flag.Var(&proofs, "proof", "file of the proof of an entry")
	flag.Var(&growths, "growth", "file of the proof of consistency from the -old in the same place")
	base := flag.String("base", "", "folder or address")
	token := flag.String("token", "", "token of a reader of entries")
	step := flag.Int64("step", 1, "prove every so many entries")
	flag.Parse()

	var verifiers []note.Verifier
	for _, key := range keys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, verifier)
	}
	known, log := note.VerifierList(verifiers...), verifiers[0].Name()
	p := &place{base: *base, token: *token, seen: map[string][]byte{}}
	data, err := p.read("checkpoint")
	if err != nil {
		return nil, err
	}
	now, err := openHead(data, known, log)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %v", err)
	}
	reader := tlog.TileHashReader(tlog.Tree{N: now.size, Hash: now.root}, p)
	root := now.root
	if now.size > 0 { // Go 1.19's package has no hash of an empty tree
		if root, err = tlog.TreeHash(now.size, reader); err != nil {
			return nil, fmt.Errorf("tiles: %v", err)
		}
	}
	if root != now.root {
		return nil, fmt.Errorf("the tiles lead to another root")
	}
	longest, proven, err := checkEntries(p, now, reader, *step)
	if err != nil {
		return nil, err
	}
	for i, name := range olders {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		older, err := openHead(data, known, log)
		if err != nil {
			return nil, fmt.Errorf("%s: %v", name, err)
		}
		proof, err := tlog.ProveTree(now.size, older.size, reader)
		if err == nil {
			err = tlog.CheckTree(proof, now.size, now.root, older.size, older.root)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %v", name, err)
		}
		if i >= len(growths) {
			continue
		}
		if data, err = os.ReadFile(growths[i]); err == nil {
			err = checkGrowth(data, older, known, log)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %v", growths[i], err)
		}
	}
	for _, name := range proofs {
		data, err := os.ReadFile(name)
		if err == nil {
			err = checkProof(data, known, log)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %v", name, err)
		}
	}
	return map[string]any{
		"size": now.size, "root": fmt.Sprintf("%x", root[:]), "signed": now.signed, "others": now.others,
		"longest": longest, "proven": proven, "older": len(olders), "proofs": len(proofs), "growths": len(growths),
	}, nil
}

func main() {
	found, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(found)
}
