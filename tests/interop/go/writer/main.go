// A log that shares nothing with the product: Go's own trees and notes make the sheet's tree (entry i is the 8-byte
// big-endian integer i), sign it at the sizes that are named, and prove entries and growth. One JSON object to stdout.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// skey is that of an example of the note package: for tests, known to everybody.
const skey = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"

type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var found []tlog.Hash
	for _, index := range indexes {
		found = append(found, s[index])
	}
	return found, nil
}

func entry(i int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(i))
}

func lines(hashes []tlog.Hash) string {
	var text strings.Builder
	for _, hash := range hashes {
		text.WriteString(hash.String() + "\n")
	}
	return text.String()
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	signer, err := note.NewSigner(skey)
	must(err)
	var tree stored
	notes, proofs, growths := map[int64]string{}, map[string]string{}, map[string]string{}
	var at int64
	var sizes []int64
	for _, word := range os.Args[1:] {
		size, err := strconv.ParseInt(word, 10, 64)
		must(err)
		for ; at < size; at++ {
			hashes, err := tlog.StoredHashes(at, entry(at), tree)
			must(err)
			tree = append(tree, hashes...)
		}
		root, err := tlog.TreeHash(size, tree)
		must(err)
		text := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), size, root)
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		must(err)
		notes[size] = string(signed)
		for _, index := range []int64{0, size / 2, size - 2, size - 1} {
			if index < 0 {
				continue
			}
			proof, err := tlog.ProveRecord(size, index, tree)
			must(err)
			extra := base64.StdEncoding.EncodeToString(entry(index))
			head := fmt.Sprintf("c2sp.org/tlog-proof@v1\nextra %s\nindex %d\n", extra, index)
			proofs[fmt.Sprintf("%d/%d", index, size)] = head + lines(proof) + "\n" + string(signed)
		}
		for _, old := range sizes {
			proof, err := tlog.ProveTree(size, old, tree)
			must(err)
			growths[fmt.Sprintf("%d/%d", old, size)] = fmt.Sprintf("old %d\n", old) + lines(proof) + "\n" + string(signed)
		}
		sizes = append(sizes, size)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"notes": notes, "proofs": proofs, "growths": growths})
}
