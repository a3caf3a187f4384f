package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	defaultPatience = 10 * time.Second
	tellEvery       = 2 * time.Second // how far a pull is
)

// host is what is known of a registry.
type host struct {
	turn chan struct{} // held by the one that tries whether it answers
	up   bool
	down error
}

// host gives the registry its entry.
func (r *Resolver) host(registry string) *host {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts == nil {
		r.hosts = map[string]*host{}
	}
	h := r.hosts[registry]
	if h == nil {
		h = &host{turn: make(chan struct{}, 1)}
		r.hosts[registry] = h
	}
	return h
}

// pull gets an image from its registry into the cache.
func (r *Resolver) pull(ctx context.Context, w Wanted, say func(string)) (Found, error) {
	switch {
	case w.Ref == "":
		return Found{}, errors.New("in no registry")
	case !r.Registry:
		return Found{}, errors.New("registry: not to be asked")
	}
	t, err := tag(w.Ref)
	if err != nil {
		return Found{}, err
	}
	unlock, err := r.lock(ctx, w.Ref, say)
	if err != nil {
		return Found{}, err
	}
	defer unlock()
	f, ok := r.cached(w.Ref) // another process may have pulled it while we waited
	if !ok {
		img, done, err := r.manifest(ctx, t)
		defer done()
		if err != nil {
			return Found{}, fmt.Errorf("registry: %w", err)
		}
		m, err := img.Manifest()
		if err != nil {
			return Found{}, fmt.Errorf("registry: %w", err)
		}
		var size int64
		for _, l := range m.Layers {
			size += l.Size
		}
		say(fmt.Sprintf("pulling %s, %s", w.Ref, megabytes(size)))
		told := time.Now()
		f, err = r.keepImage(ctx, FromRegistry, w.Ref, img, func(done int64) {
			if time.Since(told) >= tellEvery {
				told = time.Now()
				say(fmt.Sprintf("pulling %s, %s of %s", w.Ref, megabytes(min(done, size)), megabytes(size)))
			}
		})
		if err != nil {
			return Found{}, fmt.Errorf("registry: pull: %w", err)
		}
	}
	f.Name = w.Name
	return f, nil
}

// manifest asks a registry what an image is made of, within our patience. A registry
// that does not answer is not asked again: the next image need not wait for it.
// The image can be read until done is called, which must be.
func (r *Resolver) manifest(ctx context.Context, t name.Tag) (img v1.Image, done func(), err error) {
	done = func() {}
	h := r.host(t.RegistryStr())
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, done, context.Cause(ctx)
	}
	held := true
	release := func() {
		if held {
			held = false
			<-h.turn
		}
	}
	defer release()
	if h.down != nil {
		return nil, done, fmt.Errorf("%s was tried before: %w", t.RegistryStr(), h.down)
	}
	if h.up {
		release() // no reason to go one by one
	}
	patience := cmp.Or(r.Patience, defaultPatience)
	asking, cancel := context.WithCancelCause(ctx)
	done = func() { cancel(nil) }
	late := fmt.Errorf("no answer from %s within %s", t.RegistryStr(), patience)
	timer := time.AfterFunc(patience, func() { cancel(late) })

	want := r.platform()
	opts := append([]remote.Option{remote.WithContext(asking), remote.WithPlatform(want), remote.WithAuthFromKeychain(authn.DefaultKeychain)}, r.Remote...)
	desc, err := remote.Get(t, opts...)
	if ctx.Err() != nil {
		timer.Stop()
		return nil, done, context.Cause(ctx)
	}
	if errors.Is(context.Cause(asking), late) {
		err = late
	}
	var answer *transport.Error
	if silent := err != nil && !errors.As(err, &answer); held && silent {
		h.down = err
	} else if held {
		h.up = true
		release()
	}
	var raw *v1.ConfigFile
	if err == nil {
		img, err = desc.Image()
	}
	if err == nil {
		raw, err = img.ConfigFile()
	}
	if !timer.Stop() {
		err = late // what is asked from here on would be refused
	}
	if err == nil {
		err = r.fits(raw.OS + "/" + raw.Architecture)
	}
	return img, done, err
}
